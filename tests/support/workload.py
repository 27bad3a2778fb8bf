"""A workload of several processes: agents of two tenants, refusals, timeouts, one ledger, a restart, a release.

Each process is a program of its own under `opentelemetry-instrument`, told line by line which agent makes how many
calls. It has no knowledge of loco-otel but for the names of its agents.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llm_server import LlmServer
from sdk_program import Running, launched

AGENTS: Mapping[str, tuple[str, str]] = {
    "analyst": ("acme", "research"),
    "crawler": ("acme", "research"),
    "impatient": ("acme", "ops"),
    "writer": ("globex", "desk"),
    "clumsy": ("globex", "ops"),
    "broke": ("globex", "ops"),
}
"""Tenant and team of each agent."""

MODELS = {
    "analyst": "gpt-4.1",
    "crawler": "gpt-4o",
    "impatient": "gpt-4.1-mini",
    "writer": "claude-sonnet-5",
    "clumsy": "no-such-model",
    "broke": "gpt-4.1",
}

PROGRAM = """
    import json, os, sys, threading
    from concurrent.futures import ThreadPoolExecutor

    import anthropic, openai
    import loco_otel

    question = [{"role": "user", "content": "how deep is the harbour?"}]
    patient = openai.OpenAI(max_retries=0)
    stubborn = openai.OpenAI(max_retries=1)
    impatient = openai.OpenAI(max_retries=0, timeout=0.05)
    claude = anthropic.Anthropic(max_retries=0)

    def write(model):
        with claude.messages.stream(model=model, max_tokens=64, messages=question) as stream:
            stream.get_final_text()

    def ask(client):
        return lambda model: client.chat.completions.create(model=model, messages=question, max_tokens=64)

    ways = {"writer": write, "impatient": ask(impatient), "crawler": ask(stubborn)}

    def run(order):
        agent = order["agent"]
        way = ways.get(agent, ask(patient))

        def call(_):
            with loco_otel.as_agent(agent, tenant=order["tenant"], team=order["team"]):
                try:
                    way(order["model"])
                except Exception as error:
                    return type(error).__name__
            return "ok"

        with ThreadPoolExecutor(order["at_once"]) as threads:
            outcomes = list(threads.map(call, range(order["calls"])))
        # In one write, as several threads print.
        print(json.dumps({"order": order["order"], "outcomes": outcomes}) + "\\n", end="", flush=True)

    print(json.dumps({"order": 0, "outcomes": []}), flush=True)
    runners = []
    children = []
    for line in sys.stdin:
        order = json.loads(line)
        if order.get("fork"):
            for _ in range(order["fork"]):
                inlet, outlet = os.pipe()
                pid = os.fork()
                if pid == 0:
                    os.close(outlet)
                    os.read(inlet, 1)  # until the parent is gone
                    os._exit(0)
                os.close(inlet)
                children.append((pid, outlet))
            print(json.dumps({"order": order["order"], "outcomes": []}), flush=True)
        elif order["calls"]:
            runners.append(threading.Thread(target=run, args=(order,)))
            runners[-1].start()
        else:
            break
    for runner in runners:
        runner.join()
    for _, outlet in children:
        os.close(outlet)
    for pid, _ in children:
        os.waitpid(pid, 0)
"""

ZONE = "UTC" if datetime.now(UTC).hour < 12 else "Etc/GMT+12"
"""It is before noon there, so that no day or month of a budget ends during a run."""

CONFIG = f"""
    budget_zone = "{ZONE}"

    [prices."gpt-4.1"]
    input = 1000
    output = 1000

    [prices."gpt-4.1-mini"]
    input = 1000
    output = 1000

    [prices."gpt-4o"]
    input = 2000
    output = 2000

    [prices."claude-*"]
    input = 3000
    output = 3000

    [[budgets]]
    scope = "all"
    limit = 1000000
    period = "month"

    [[budgets]]
    scope = "tenant"
    key = "acme"
    limit = 5
    period = "month"

    [[budgets]]
    scope = "team"
    key = "research"
    limit = 1000
    period = "minute"

    [[budgets]]
    scope = "agent"
    key = "broke"
    limit = 0.001
    period = "day"
"""
"""Prices in USD per million tokens."""


class Worker:
    """One process of the workload."""

    def __init__(self, program: Running, port: int) -> None:
        self.program = program
        self.port = port
        self._orders = 0

    def order(self, agent: str, calls: int, *, at_once: int = 1) -> int:
        """Start calls of an agent, and return the number of the order."""
        tenant, team = AGENTS[agent]
        return self._tell(agent=agent, calls=calls, at_once=at_once, tenant=tenant, team=team, model=MODELS[agent])

    def fork(self, children: int) -> None:
        """Fork children that do nothing until the program ends."""
        self.until_done(self._tell(fork=children))

    def until_done(self, order: int) -> Counter[str]:
        """Wait for the calls of an order, and return how they ended."""
        found: list[Counter[str]] = []

        def is_done() -> bool:
            answers = map(json.loads, self.program.lines())
            found[:] = [Counter(answer["outcomes"]) for answer in answers if answer["order"] == order]
            return bool(found)

        self.program.until(is_done)
        return found[0]

    def run(self, agent: str, calls: int, *, at_once: int = 1) -> Counter[str]:
        """Make calls of an agent, and return how they ended."""
        return self.until_done(self.order(agent, calls, at_once=at_once))

    def end(self) -> None:
        """Let it end by itself."""
        self._tell(calls=0)
        self.program.ends_well()

    def _tell(self, **order: Any) -> int:
        self._orders += 1
        self.program.tell(json.dumps({"order": self._orders, **order}))
        return self._orders


@contextmanager
def start_worker(server: LlmServer, folder: Path, port: int, collector: int, **settings: str) -> Iterator[Worker]:
    """Start a process of the workload, whose page is on a port, and whose spans go to a collector."""
    folder.mkdir()
    config = folder / "loco.toml"
    config.write_text(CONFIG)
    with launched(
        PROGRAM,
        folder,
        {
            **_inherited(),
            "OPENAI_API_KEY": "fake",
            "OPENAI_BASE_URL": server.url("openai"),
            "ANTHROPIC_API_KEY": "fake",
            "ANTHROPIC_BASE_URL": server.url("anthropic"),
            "LOCO_CONFIG": str(config),
            "OTEL_METRICS_EXPORTER": "prometheus",
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_LOGS_EXPORTER": "none",
            **settings,
        },
    ) as program:
        yield Worker(program, port)


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "LOCO_"))}
