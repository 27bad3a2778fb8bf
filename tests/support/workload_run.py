"""One run of the workload: its states, what each Prometheus answers about them, and what is true."""

import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from dashboard_files import expand_variables, find_query, list_variables
from llm_server import LlmServer, Record
from patience import PATIENCE
from prometheus_server import Prometheus, Vector
from sdk_collector import Collector
from workload import MODELS, Worker, start_worker

from loco_otel._budgets.sqlite_ledger import LedgerView
from loco_otel._telemetry.questions import QUESTIONS
from loco_otel.money import BudgetStatus, Totals

RECENT = "8s"
"""The range of what is asked about a state; states last longer."""
ALL = "30m"
"""The range of what is asked about the whole run."""
STATE_SECONDS = 9.0

OVERVIEW, SCHEDULING, SPEND, AGENT = "loco-overview", "loco-scheduling", "loco-spend", "loco-agent"
PANELS = (
    (OVERVIEW, "Active calls", "A"),
    (OVERVIEW, "Waiting calls", "A"),
    (OVERVIEW, "Slot utilisation", "A"),
    (OVERVIEW, "Refused by providers", "A"),
    (OVERVIEW, "Wait, 95th percentile", "A"),
    (OVERVIEW, "Waiting time by cause", "A"),
    (SCHEDULING, "Agents now", "A"),
    (SCHEDULING, "Agents now", "B"),
    (SCHEDULING, "Fairness index", "A"),
    (SPEND, "Spent in this range", "A"),
    (SPEND, "Calls without room in a budget", "A"),
    (SPEND, "Budgets in USD", "A"),
    (SPEND, "Budgets in USD", "B"),
    (SPEND, "Budgets in USD", "C"),
    (SPEND, "Spent in this range by agent", "A"),
    (SPEND, "Spent in this range by tenant", "A"),
    (SPEND, "Spent in this range by model", "A"),
    (AGENT, "Calls in this range", "A"),
    (AGENT, "Wait, 95th percentile", "A"),
)
"""Queries of panels whose truth is known: dashboard, title, letter."""

QUERIES = {question.key: question.query for question in QUESTIONS}


@dataclass
class Moment:
    """What Prometheus answers at one time, and what is true then."""

    at: float
    answers: Mapping[tuple[str, str, str], Vector]
    """By version, question and range."""
    panels: Mapping[tuple[str, tuple[str, str, str]], Vector]
    """By version and panel; ranges are the whole run, rates those of the state."""
    statuses: tuple[BudgetStatus, ...]
    requests: tuple[Record, ...]
    capacities: Mapping[str, Vector]
    """Of the resources of each process, by version."""


@dataclass
class Run:
    """The workload: its processes, and the moments at which it was asked about."""

    server: LlmServer
    collector: Collector
    servers: Mapping[str, Prometheus]
    ledger: Path
    folder: Path
    ports: Mapping[str, int]
    stack: ExitStack
    workers: dict[str, Worker] = field(default_factory=dict)
    moments: dict[str, Moment] = field(default_factory=dict)
    outcomes: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """How calls ended, by agent."""

    def start(self, name: str, version: str, **settings: str) -> Worker:
        attributes = f"service.name=harbour,service.version={version}"
        settings = {"LOCO_LEDGER": str(self.ledger), "OTEL_RESOURCE_ATTRIBUTES": attributes, **settings}
        worker = self.workers[name] = self.stack.enter_context(
            start_worker(self.server, self.folder / name, self.ports[name], self.collector.port, **settings)
        )
        return worker

    def call(self, name: str, agent: str, calls: int, *, at_once: int = 1) -> Counter[str]:
        outcomes = self.workers[name].run(agent, calls, at_once=at_once)
        self.outcomes[agent] += outcomes
        return outcomes

    def finish(self, name: str, agent: str, order: int) -> None:
        self.outcomes[agent] += self.workers[name].until_done(order)

    def until_ready(self) -> None:
        """Wait until each process reads orders and was scraped, so that counters of budgets have their 0."""
        for worker in self.workers.values():
            worker.until_done(0)
        self.until_scraped(time.time())

    def end(self, *names: str) -> None:
        """End processes once their last values are scraped."""
        self.until_scraped(time.time())
        for name in names:
            self.workers.pop(name).end()

    def until_scraped(self, after: float) -> None:
        """Wait until each running process was scraped after a time."""
        instances = "|".join(f"127.0.0.1:{worker.port}" for worker in self.workers.values())
        up = f'up{{instance=~"{instances}"}}'
        query = f"count((timestamp({up}) > {after:.3f}) and ({up} == 1))"
        for prometheus in self.servers.values():

            def is_scraped(prometheus: Prometheus = prometheus) -> bool:
                return prometheus.ask(query, time.time()) == {frozenset(): len(self.workers)}

            prometheus.until(is_scraped)

    def until_steady(self) -> None:
        """Let the present state last for as long as questions about it need."""
        self.until_scraped(time.time() + STATE_SECONDS)

    def ask(self, moment: str) -> None:
        """Ask all questions now."""
        self.until_scraped(time.time())
        at = time.time()
        answers = {
            (version, key, range_): prometheus.ask(query.replace("15m", range_), at)
            for version, prometheus in self.servers.items()
            for key, query in QUERIES.items()
            for range_ in (RECENT, ALL)
        }
        panels = {
            (version, panel): prometheus.ask(_expand_panel(panel), at)
            for version, prometheus in self.servers.items()
            for panel in PANELS
        }
        capacities = {
            version: prometheus.ask("loco_resource_capacity", at) for version, prometheus in self.servers.items()
        }
        self.moments[moment] = Moment(at, answers, panels, self.statuses(), tuple(self.server.requests()), capacities)

    def statuses(self) -> tuple[BudgetStatus, ...]:
        view = LedgerView(self.ledger)
        try:
            return view.read_statuses(time.time())
        finally:
            view.close()

    def totals(self, by: str) -> tuple[Totals, ...]:
        view = LedgerView(self.ledger)
        try:
            return view.compute_totals((by,))
        finally:
            view.close()

    @cached_property
    def acquires(self) -> list[Mapping[str, str]]:
        """The attributes of all acquire spans."""
        return [
            {it["key"]: next(iter(it["value"].values())) for it in span.item.get("attributes", ())}
            for span in self.collector.spans()
            if span.item["name"].startswith("acquire ")
        ]

    @cached_property
    def waits(self) -> Mapping[str, list[float]]:
        """The seconds of all waits by agent, from the spans."""
        waits = defaultdict(list)
        for facts in self.acquires:
            if "loco.wait.duration" in facts:
                waits[facts["loco.agent.id"]].append(float(facts["loco.wait.duration"]))
        return waits


def _expand_panel(panel: tuple[str, str, str]) -> str:
    """Return the query of a panel that shows everything."""
    dashboard, title, ref = panel
    values = {**dict.fromkeys(list_variables(dashboard), ".+"), "__range": ALL, "__rate_interval": RECENT}
    return expand_variables(find_query(dashboard, title, ref).expr, values)


def work(run: Run) -> None:
    """Go through the states, and ask about each."""
    server = run.server
    server.throttle(times=None, status=404, kind="model_not_found", model=MODELS["clumsy"])
    run.start("inactive", "1", LOCO_ENABLED="false")
    run.start("first", "1")
    run.start("second", "1")
    run.until_ready()
    run.workers["inactive"].fork(2)

    # Auto, before a refusal.
    for name in ("first", "second"):
        run.call(name, "analyst", 3)
        run.call(name, "writer", 2)
        run.call(name, "crawler", 4, at_once=4)
        run.call(name, "broke", 2)
    run.call("first", "clumsy", 2)
    run.ask("unlimited")
    next_minute = time.time() // 60 * 60 + 60

    # Auto, after refusals; a client's own timeouts; a pause.
    server.throttle(times=27, model=MODELS["analyst"])
    for name, calls in (("first", 14), ("second", 13)):
        assert run.call(name, "analyst", calls) == {"RateLimitError": calls}
    server.hold(model=MODELS["impatient"])
    run.call("first", "impatient", 3)
    server.release()
    server.throttle(times=1, retry_after=1, model=MODELS["crawler"])
    run.call("first", "crawler", 1)
    server.hold(model=MODELS["crawler"])
    order = run.workers["first"].order("crawler", 6, at_once=6)
    server.wait_for(held=1, timeout=PATIENCE)
    run.until_steady()
    run.ask("learnt")
    server.release()
    run.finish("first", "crawler", order)

    # A restart, and a release with a fixed limit.
    run.end("first", "second")
    run.start("restarted", "1")
    run.start("released", "2", LOCO_CAPACITY="2", LOCO_POLICY="fair")
    run.until_ready()
    run.call("restarted", "analyst", 2)
    server.hold()
    orders = {agent: run.workers["released"].order(agent, 20, at_once=4) for agent in ("analyst", "crawler")}
    server.wait_for(held=2, timeout=PATIENCE)
    finished = server.state().finished
    server.release(20)
    server.wait_for(finished=finished + 20, held=2, timeout=PATIENCE)
    run.until_steady()
    run.ask("fixed")
    server.release()
    for agent, order in orders.items():
        run.finish("released", agent, order)

    # Half of the slots, and a period's end.
    server.hold(model=MODELS["crawler"])
    order = run.workers["released"].order("crawler", 1)
    server.wait_for(held=1, timeout=PATIENCE)
    run.until_steady()
    run.ask("half")
    server.release()
    run.finish("released", "crawler", order)
    run.until_scraped(next_minute)
    run.call("released", "analyst", 1)
    run.ask("end")
    run.end(*run.workers)
