"""What grows with the program: each operation at a size, and at ten times that size."""

import random
from collections.abc import Callable, Mapping

from benchmarks.timing import best_of, print_table
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.policies.load import LoadPolicy
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import Ticket
from loco_otel._engine.in_process import InProcessEngine
from loco_otel.events import MILLI, Request


def _crowd(agents: int) -> InProcessEngine:
    """Return an engine with one lease, and a waiter of each agent; all weights differ."""
    rng = random.Random(1)
    engine = InProcessEngine(Scheduler({"llm": 1}, lambda: LoadPolicy(0.25, rng.random)), timer=False)
    for number in range(agents + 1):
        engine.submit(engine.create_ticket(Request(f"agent-{number}", MILLI + number, ("llm",))))
    return engine


def _take_snapshots(agents: int) -> Callable[[int], None]:
    engine = _crowd(agents)

    def take_snapshots(count: int) -> None:
        for _ in range(count):
            engine.take_snapshot()

    return take_snapshots


def _release_among_agents(agents: int) -> Callable[[int], None]:
    """Return what releases, grants and submits under `load`, with weights as those of tokens: all are different."""
    rng = random.Random(1)
    core = Scheduler({"llm": 16}, lambda: LoadPolicy(0.25, rng.random))

    def submit() -> None:
        core.submit(Ticket(Request(f"agent-{rng.randrange(agents)}", rng.randint(500, 7000), ("llm",))), 0.0)

    for _ in range(4 * agents):
        submit()
    leases = core.resources.pools["llm"].leases

    def release(count: int) -> None:
        for _ in range(count):
            core.release(next(iter(leases.values())), 0.0)
            submit()

    return release


def _submit(core: Scheduler, *resources: str, at: float = 0.0) -> Ticket:
    ticket = Ticket(Request("agent", resources=resources))
    core.submit(ticket, at)
    return ticket


def _fan_out(children: int) -> Callable[[int], None]:
    """Return what lets children wait under one open lease until each has had a slot; counted by children."""

    def fan_out(count: int) -> None:
        for _ in range(max(1, count // children)):
            core = Scheduler({"llm": 1}, FifoPolicy)
            parent = _submit(core, "llm")
            parent.scopes = ("parent",)
            for _ in range(children):
                core.park_ticket(_submit(core, "llm"), ("parent",), 0.0)
            leases = core.resources.pools["llm"].leases
            while len(leases) > 1:
                core.release(next(reversed(leases.values())), 0.0)

    return fan_out


def _wait_among_resources(resources: int) -> Callable[[int], None]:
    """Return what waits, parks and cancels at one of many full resources."""
    core = Scheduler({f"r{number}": 1 for number in range(resources)}, FifoPolicy)
    for name in tuple(core.resources.pools):
        _submit(core, name)

    def wait(count: int) -> None:
        for _ in range(count):
            waiter = _submit(core, "r0")
            core.park_ticket(waiter, ("elsewhere",), 0.0)
            core.cancel(waiter, 0.0)

    return wait


def _check_idle_leases(resources: int) -> Callable[[int], None]:
    """Return what the timer does at each heartbeat while a ticket waits at one of many resources."""
    core = Scheduler({f"r{number}": 1 for number in range(resources)}, FifoPolicy)
    for name in tuple(core.resources.pools):
        _submit(core, name).idle_after = 1.0
    _submit(core, "r0")

    def check(count: int) -> None:
        for _ in range(count):
            core.run_due_actions(0.5)

    return check


def _release_among_wide_sets(queue_sets: int) -> Callable[[int], None]:
    """Return what releases a slot of a resource that many sets of resources contain, each with a waiter."""
    core = Scheduler({"hub": 1} | {f"r{number}": 1 for number in range(queue_sets)}, FifoPolicy, max_wait_ticks=0)
    _submit(core, "hub")
    for number in range(queue_sets):
        _submit(core, "hub", f"r{number}", at=float(number))
    leases, now = core.resources.pools["hub"].leases, float(queue_sets)

    def release(count: int) -> None:
        nonlocal now
        for _ in range(count):
            now += 1.0
            core.release(next(iter(leases.values())), now)
            _submit(core, *next(iter(leases.values())).request.resources, at=now)

    return release


def _wait_among_holders(holders: int) -> Callable[[int], None]:
    """Return what waits and cancels at a resource with many leases, observed."""
    core = Scheduler({"llm": holders}, FifoPolicy)
    core.observed = True
    for _ in range(holders):
        _submit(core, "llm")

    def wait(count: int) -> None:
        for _ in range(count):
            core.cancel(_submit(core, "llm"), 0.0)
        core.events.clear()

    return wait


_ROWS: Mapping[str, tuple[Callable[[int], Callable[[int], None]], int, int]] = {
    "snapshot under `load`, all weights different, {} agents": (_take_snapshots, 1_000, 3),
    "release, grant and submit under `load`, weights of tokens, {} agents": (_release_among_agents, 1_000, 1_000),
    "child under an open lease, {} children": (_fan_out, 80, 800),
    "wait, park and cancel, {} resources": (_wait_among_resources, 100, 100),
    "heartbeat while one waits, {} resources": (_check_idle_leases, 100, 100),
    "release and grant, {} sets of resources": (_release_among_wide_sets, 90, 50),
    "wait and cancel, {} leases, observed": (_wait_among_holders, 1_000, 200),
}
"""By title: what is measured, the smaller size, and iterations a round."""


def run() -> dict[str, float]:
    """Measure, print, and return microseconds by title."""
    all_times: dict[str, float] = {}
    for title, (prepare, size, count) in _ROWS.items():
        sizes = {title.format(f"{each:,}"): prepare(each) for each in (size, 10 * size)}
        times = best_of(sizes, count, 3)
        print_table(
            "At a size and at ten times it (goal: at most x3; a snapshot in proportion)",
            times,
            next(iter(times)),
        )
        all_times |= times
    return all_times
