"""Programs that give each panel something to show: agents of two SDKs that wait, are refused, and cross budgets."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sdk_program import Running, environ, launched
from sdk_server import LlmServer, free_port
from workload import ZONE

PROGRAM = """
    import itertools
    import logging
    import os
    import threading

    import anthropic
    import loco_otel
    import openai

    logging.disable(logging.CRITICAL)  # of prices that are not known, and of thresholds
    QUESTION = [{"role": "user", "content": "how deep is the harbour?"}]
    ended = threading.Event()

    def repeat(agent, tenant, step, failures):
        for run in itertools.count():
            if ended.is_set():
                return
            with loco_otel.as_agent(agent, tenant=tenant, workflow="tour", run=f"{agent}-{tenant}-{run}"):
                try:
                    step()
                except failures:
                    pass

    with openai.OpenAI() as client, anthropic.Anthropic() as claude:

        def ask():
            client.chat.completions.create(model="gpt-4o", messages=QUESTION)

        def crawl():
            client.responses.create(model="gpt-4o-mini", input="how deep is the harbour?")

        def write():
            claude.messages.create(model="claude-harbour", max_tokens=64, messages=QUESTION)

        def read():
            for _ in client.chat.completions.create(model="gpt-4o", messages=QUESTION, stream=True):
                pass

        def hurry():
            client.with_options(timeout=0.01, max_retries=0).chat.completions.create(model="gpt-4o", messages=QUESTION)

        failures = (openai.APIError, anthropic.APIError, loco_otel.AcquireTimeoutError)
        work = [("analyst", "acme", ask), ("writer", "globex", write), ("reader", "acme", read)]
        work += [("crawler", "acme", crawl)] * 5
        if "HASTY" in os.environ:
            work.append(("hasty", "globex", hurry))
        threads = [threading.Thread(target=repeat, args=(*it, failures)) for it in work]
        for thread in threads:
            thread.start()
        print("started", flush=True)
        input()
        ended.set()
        for thread in threads:
            thread.join()
"""

SETTINGS = f"""
    max_waiters = 100
    acquire_timeout = 0.15
    run_idle_timeout = 0.2
    budget_period = "day"
    budget_zone = "{ZONE}"

    [[budgets]]
    scope = "all"
    limit = 100

    [[budgets]]
    key = "analyst"
    limit = 0.001
    on_exceeded = "alert"

    [[budgets]]
    key = "writer"
    limit = 0.001
    unit = "weight"
    on_exceeded = "alert"
"""
"""Analyst and writer cross their budgets with the first call. Writer's model has no price. Some waits time out."""


def start_server(folder: Path, *, refuses: bool = True) -> LlmServer:
    """Start a server that refuses one call in twenty, if any, and answers the others after 50 ms."""
    server = LlmServer(folder / "llmock.txt", *(("--error-rate-429", "0.05") if refuses else ()))
    server.script({"type": "delay", "seconds": 0.05, "times": None})
    return server


class Workload:
    """Two processes with one ledger, and two releases of one service; `ports` are those of their pages."""

    def __init__(self, server: LlmServer, folder: Path, settings: Mapping[str, Any]) -> None:
        self.ports = [free_port(), free_port()]
        self._programs: list[Running] = []
        self._stack = ExitStack()
        (folder / "loco.toml").write_text(SETTINGS)
        for number, port in enumerate(self.ports):
            own = folder / str(number)
            own.mkdir()
            variables = {
                **environ(server),
                "OTEL_METRICS_EXPORTER": "prometheus",
                "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
                "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
                "OTEL_RESOURCE_ATTRIBUTES": f"service.version=1.{number}",
                "LOCO_CONFIG": str(folder / "loco.toml"),
                "LOCO_LEDGER": str(folder / "ledger.db"),
                **settings,
            }
            self._programs.append(self._stack.enter_context(launched(PROGRAM, own, variables)))
        for program in self._programs:
            program.until(lambda program=program: "started" in program.lines())

    def check(self) -> None:
        """Fail if a process has ended."""
        for program in self._programs:
            assert program.process.poll() is None, program.errors()

    def stop(self) -> None:
        self._stack.close()
