"""Seconds of slots, capacity and pauses: what is under way is counted up to the collection."""

import random
from collections.abc import Hashable
from typing import Any

import pytest
from effort import scale
from forked_child import run_in_child
from telemetry_scenario import Rig, under

from loco_otel._core.adaptive_limit import AdaptiveLimit
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.provider_pause import record_throttling
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.in_process import InProcessEngine
from loco_otel._telemetry import attributes as key
from loco_otel._telemetry import catalogue
from loco_otel._telemetry.instruments import CardinalityLimit
from loco_otel._telemetry.time_sums import TimeIntegral, TimeSums
from loco_otel.events import MILLI, Limited, Outcome, Request, Throttled, ThrottleKind

LLM, SEARCH = "llm", "search"


class Bench:
    """A scheduler whose events reach the sums, in manual time."""

    def __init__(self, **capacities: int | AdaptiveLimit | None) -> None:
        self.now = 0.0
        self.core = Scheduler(capacities, FifoPolicy, max_hold=1e9)
        self.core.observed = True
        self.core.emit_limits(self.core.resources.pools.values(), self.now)
        self.sums = TimeSums(CardinalityLimit(), lambda: self.now)
        self.deliver()

    def deliver(self) -> None:
        for event in self.core.events:
            self.sums(event)
        self.core.events.clear()

    def ask(self, agent: str, *resources: str, admission: bool = False, place: Hashable = None) -> Ticket:
        ticket = Ticket(Request(agent, MILLI, resources or (LLM,), admission=admission))
        ticket.scopes = () if place is None else (place,)
        self.core.submit(ticket, self.now)
        self.deliver()
        return ticket

    def run(self, operation: str, *arguments: Any) -> None:
        getattr(self.core, operation)(*arguments, self.now)
        self.deliver()

    def seconds(self, row: Any = catalogue.SLOT_TIME) -> dict[tuple[object, ...], float]:
        totals = self.sums.integrals[row].read_totals(self.now)
        return {tuple(attributes.values()): value for value, attributes in totals}


def test_hold_of_eight_seconds_is_four_after_four() -> None:
    bench = Bench(llm=2)
    ticket = bench.ask("hog")
    bench.now = 4.0
    assert bench.seconds() == {("hog", LLM): 4.0}
    assert bench.seconds(catalogue.CAPACITY_TIME) == {(LLM,): 8.0}
    bench.now = 8.0
    bench.run("release", ticket)
    bench.now = 20.0
    assert bench.seconds() == {("hog", LLM): 8.0}
    assert bench.seconds(catalogue.CAPACITY_TIME) == {(LLM,): 40.0}


def test_metrics_show_a_hold_under_way() -> None:
    rig = Rig()
    core = Scheduler({LLM: 1}, FifoPolicy)
    core.observed = True
    core.submit(Ticket(Request("hog", MILLI, (LLM,))), rig.clock.now)
    rig.tell(*core.events)
    start = rig.clock.now
    rig.clock.now = start + 3.0  # and one that a collection of the rig takes
    assert rig.points("loco.slot.time") == {("hog", LLM): 4.0}
    assert rig.points("loco.capacity.time") == {(LLM,): 5.0}


def test_slot_is_counted_at_each_of_its_resources() -> None:
    bench = Bench(llm=1, search=1)
    both = bench.ask("a", LLM, SEARCH)
    bench.now = 3.0
    bench.run("release", both)
    assert bench.seconds() == {("a", LLM): 3.0, ("a", SEARCH): 3.0}


def test_check_of_budgets_holds_the_slot() -> None:
    bench = Bench(llm=1)
    refused, admitted = bench.ask("a", admission=True), None
    bench.now = 1.0
    bench.run("refuse_admission", refused, Outcome.BUDGET)
    admitted = bench.ask("b", admission=True)
    bench.now = 3.0
    bench.run("admit_ticket", admitted)
    bench.now = 6.0
    bench.run("release", admitted)
    assert bench.seconds() == {("a", LLM): 1.0, ("b", LLM): 5.0}


def test_pause_is_no_hold_and_is_counted_while_under_way() -> None:
    bench = Bench(llm=1)
    ticket = bench.ask("a")
    bench.now = 1.0
    bench.run("suspend_ticket", ticket)
    bench.now = 3.0
    assert bench.seconds(catalogue.PAUSE_TIME) == {("a", LLM): 2.0}
    other = bench.ask("b")
    bench.run("resume_ticket", ticket)  # it waits from now on
    bench.now = 7.0
    bench.run("release", other)
    bench.now = 8.0
    bench.run("release", ticket)
    assert bench.seconds(catalogue.PAUSE_TIME) == {("a", LLM): 2.0, ("b", LLM): 0.0}
    assert bench.seconds() == {("a", LLM): 2.0, ("b", LLM): 4.0}


@pytest.mark.parametrize("operation", ["release", "cancel", "resume_ticket"])
def test_every_end_of_a_pause_ends_it(operation: str) -> None:
    bench = Bench(llm=1)
    ticket = bench.ask("a")
    bench.run("suspend_ticket", ticket)
    bench.now = 2.0
    bench.run(operation, ticket)
    bench.now = 9.0
    assert bench.seconds(catalogue.PAUSE_TIME) == {("a", LLM): 2.0}


def test_shared_slot_counts_once_and_passes_on() -> None:
    bench = Bench(llm=1)
    outer = bench.ask("outer", place="x")
    inner = bench.ask("inner", place="x")
    bench.run("park_ticket", inner, ("x",))
    innermost = bench.ask("innermost", place="x")
    bench.run("park_ticket", innermost, ("x",))
    assert inner.lender is outer
    assert innermost.state is State.GRANTED
    bench.now = 2.0
    bench.run("release", outer)
    bench.now = 5.0
    bench.run("release", inner)
    bench.now = 9.0
    bench.run("release", innermost)
    assert bench.seconds() == {("outer", LLM): 2.0, ("inner", LLM): 3.0, ("innermost", LLM): 4.0}


def test_unlimited_resource_has_no_capacity() -> None:
    bench = Bench(llm=AdaptiveLimit())
    tickets = [bench.ask("a") for _ in range(4)]
    bench.now = 5.0
    assert bench.seconds(catalogue.CAPACITY_TIME) == {}
    record_throttling(bench.core, Throttled(bench.now, tickets[0], 429, ThrottleKind.LOAD, None, None))
    bench.deliver()
    bench.now = 7.0
    assert bench.seconds(catalogue.CAPACITY_TIME) == {(LLM,): 4.0}
    bench.run("set_capacity", LLM, None)
    bench.now = 9.0
    bench.run("set_capacity", LLM, 3)
    bench.now = 10.0
    assert bench.seconds(catalogue.CAPACITY_TIME) == {(LLM,): 4.0 + 3.0}
    changes = {
        point.attributes[key.LIMIT_DIRECTION]: point.value  # type: ignore[index]
        for point in bench.sums.limit_changes.list_observations(None)  # type: ignore[arg-type]
    }
    assert changes == {"up": 1, "down": 2}


def test_processes_divide_the_time_of_shared_slots() -> None:
    bench = Bench(llm=4)
    for processes, slots, until in ((2, 4, 10.0), (4, 4, 12.0), (4, 8, 13.0)):
        bench.sums(Limited(bench.now, LLM, slots, slots, processes=processes))
        bench.now = until
    assert bench.seconds(catalogue.CAPACITY_TIME) == {(LLM,): 20.0 + 2.0 + 2.0}
    changes = bench.sums.limit_changes.list_observations(None)  # type: ignore[arg-type]
    assert [point.value for point in changes] == [1, 0], "another process is no other limit"


def test_suppressed_call_is_not_counted() -> None:
    rig = Rig()
    bench = Bench(llm=1)
    trace = under(rig.parent())
    trace.is_suppressed = True
    ticket = Ticket(Request("a", MILLI, (LLM,), context=trace))
    bench.run("submit", ticket)
    bench.now = 1.0
    bench.run("suspend_ticket", ticket)
    bench.now = 2.0
    assert bench.seconds() == bench.seconds(catalogue.PAUSE_TIME) == {}


def test_total_never_decreases_after_a_late_event() -> None:
    integral = TimeIntegral(catalogue.SLOT_TIME)
    integral.start_point(("a", LLM), 0.0)
    integral.add_level(("a", LLM), 1, 0.0)
    assert integral.read_totals(2.0)[0][0] == 2.0
    integral.add_level(("a", LLM), -1, 1.5)
    assert integral.read_totals(3.0)[0][0] == 2.0
    integral.add_level(("a", LLM), 1, 3.0)
    assert integral.read_totals(5.0)[0][0] == 3.5


def test_forked_child_has_no_part_in_open_holds() -> None:
    bench = Bench(llm=2)
    hold, paused = bench.ask("a"), bench.ask("b")
    bench.run("suspend_ticket", paused)
    bench.now = 2.0

    def check_child() -> None:
        bench.now = 9.0
        bench.run("release", hold)
        assert bench.seconds() == bench.seconds(catalogue.PAUSE_TIME) == {("a", LLM): 0.0, ("b", LLM): 0.0}

    assert run_in_child(check_child)


def test_forked_child_has_its_own_seconds_alone() -> None:
    bench = Bench(llm=2)
    hold = bench.ask("a")
    bench.now = 4.0
    bench.run("release", hold)
    assert bench.seconds(catalogue.CAPACITY_TIME) == {(LLM,): 8.0}

    def check_child() -> None:
        assert bench.seconds() == {("a", LLM): 0.0}
        bench.now = 7.0
        assert bench.seconds(catalogue.CAPACITY_TIME) == {(LLM,): 6.0}
        own = bench.ask("a")
        bench.now = 8.0
        bench.run("release", own)
        assert bench.seconds() == {("a", LLM): 1.0}

    assert run_in_child(check_child)
    assert bench.seconds() == {("a", LLM): 4.0}


def test_dropped_events_end_open_holds() -> None:
    rig = Rig()
    core = Scheduler({LLM: 1}, FifoPolicy)
    core.observed = True
    core.submit(Ticket(Request("hog", MILLI, (LLM,))), rig.clock.now)
    rig.tell(*core.events)
    rig.events_dropped = 1
    first = rig.points("loco.slot.time")
    assert rig.points("loco.slot.time") == first


def test_interrupted_operation_counts_as_a_dropped_event() -> None:
    engine = InProcessEngine(Scheduler({LLM: 1}, FifoPolicy), timer=False)
    engine.add_listener(lambda _: None)
    engine.submit(engine.create_ticket(Request("hog", MILLI, (LLM,))))
    engine._busy = True  # as an interruption leaves it
    engine.submit(engine.create_ticket(Request("next", MILLI, (LLM,))))
    assert engine.take_snapshot().events_dropped == 1


@pytest.mark.parametrize("seed", range(scale(20)))
def test_slot_seconds_equal_the_integral_of_used_slots(seed: int) -> None:
    draw = random.Random(seed)
    bench = Bench(llm=3, search=2)
    tickets: list[Ticket] = []
    used = {LLM: 0.0, SEARCH: 0.0}
    slots = {LLM: 0.0, SEARCH: 0.0}
    paused = 0.0
    for _ in range(300):
        step = draw.randint(0, 8) / 8  # exact in binary
        for name, pool in bench.core.resources.pools.items():
            used[name] += pool.used * step
            slots[name] += pool.capacity * step
        paused += step * sum(len(t.request.resources) for t in tickets if t.state is State.SUSPENDED)
        bench.now += step
        match draw.randrange(8):
            case 0 | 1 | 2:
                names = draw.choice([(LLM,), (SEARCH,), (LLM, SEARCH)])
                place = draw.choice("xyz")
                admission = draw.random() < 0.3
                tickets.append(bench.ask(draw.choice("abc"), *names, admission=admission, place=place))
                if tickets[-1].state is State.WAITING:
                    bench.run("park_ticket", tickets[-1], (place,))
            case 3:
                bench.run("set_capacity", draw.choice([LLM, SEARCH]), draw.randint(1, 4))
            case choice if tickets:
                operation = {4: "release", 5: "suspend_ticket", 6: "resume_ticket"}.get(choice, "cancel")
                ticket = draw.choice(tickets)
                if ticket.state is State.ADMITTING:
                    operation = "admit_ticket"
                bench.run(operation, ticket)
                tickets = [t for t in tickets if not t.state.is_ended]
    for name in (LLM, SEARCH):
        assert sum(value for point, value in bench.seconds().items() if point[1] == name) == used[name]
        assert bench.seconds(catalogue.CAPACITY_TIME).get((name,), 0.0) == slots[name]
    assert sum(bench.seconds(catalogue.PAUSE_TIME).values()) == paused
