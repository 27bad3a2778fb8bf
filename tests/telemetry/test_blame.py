"""The blame for waits as metrics show it: while a wait is open, when it has ended, and when events are missing."""

import random

import pytest
from opentelemetry import context
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric
from telemetry_scenario import ManualClock, granted, rejected, released, ticket, waiting

from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.in_process import InProcessEngine
from loco_otel._telemetry import CallTrace, blame
from loco_otel._telemetry.blame import BlameListener
from loco_otel._telemetry.instruments import CardinalityLimit
from loco_otel._telemetry.pipeline import ProcessState, Telemetry
from loco_otel._telemetry.wait_integrals import iter_parts
from loco_otel.events import Limited, Outcome, Request

LABELS = ("loco.agent.id", "loco.wait.cause", "loco.blame.agent")


class House:
    """An engine with one resource, by hand, and the metrics of its telemetry."""

    def __init__(self, capacity: int = 1, *, listens: bool = True) -> None:
        self.clock = ManualClock()
        self.engine = InProcessEngine(Scheduler({"llm": capacity}, FifoPolicy), clock=self.clock, timer=False)
        self.reader = InMemoryMetricReader()
        self.telemetry = Telemetry.from_providers(
            ProcessState(self.engine.take_snapshot, tuple, flush_events=self.engine.flush),
            meter_provider=MeterProvider([self.reader], shutdown_on_exit=False),
            clock=self.clock,
        )
        if listens:
            self.listen()

    def listen(self) -> None:
        for listener in self.telemetry.listeners:
            self.engine.add_listener(listener)

    def submit(self, agent: str) -> Ticket:
        made = self.engine.create_ticket(Request(agent, resources=("llm",)))
        self.engine.submit(made)
        return made

    def metric(self, name: str) -> Metric:
        data = self.reader.get_metrics_data()
        assert data is not None
        (found,) = (
            metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
        )
        return found

    def seconds(self) -> dict[tuple[object, ...], float]:
        points = self.metric("loco.wait.time").data.data_points
        return {
            tuple(
                (point.attributes or {}).get(name) for name in ("loco.agent.id", "loco.wait.cause", "loco.blame.agent")
            ): point.value
            for point in points
        }


def test_wait_of_eight_seconds_is_four_after_four() -> None:
    house = House()
    holder = house.submit("batch")
    waiter = house.submit("chat")
    house.clock.now += 4.0
    assert house.seconds() == {("chat", "slot", "batch"): 4.0}
    house.clock.now += 4.0
    house.engine.release(holder)
    assert waiter.state is State.GRANTED
    house.clock.now += 100.0
    assert house.seconds() == {("chat", "slot", "batch"): 8.0}


def test_seconds_sum_to_the_durations_and_open_waits() -> None:
    house, rng = House(3), random.Random(1)
    held: list[Ticket] = []
    for _ in range(400):
        house.clock.now += rng.expovariate(1.0)
        held.append(house.submit(rng.choice(["a", "b", "c", "d"])))
        if rng.random() < 0.7:
            house.clock.now += rng.expovariate(1.0)
            house.engine.cancel(held.pop(rng.randrange(len(held))))
    house.clock.now += 1.0
    opened = sum(house.clock.now - each.waiting_since for each in held if each.state is State.WAITING)
    ended = sum(point.sum for point in house.metric("loco.wait.duration").data.data_points)
    seconds = house.seconds()
    assert opened > 0
    assert ended > 0
    assert sum(seconds.values()) == pytest.approx(ended + opened, abs=1e-9)
    assert {cause for _, cause, _ in seconds} == {"slot", "self"}


def test_suppressed_wait_is_not_counted_but_its_slot_is() -> None:
    listener = BlameListener()
    with suppress_instrumentation():
        suppressed = CallTrace(context.get_current())
    holder, hidden, seen = ticket("batch", context=suppressed), ticket("chat", context=suppressed), ticket("chat")
    for event in (Limited(0.0, "llm_api", 1, 1), granted(holder, 0.0, waited=0.0), waiting(hidden, 1.0)):
        listener(event)
    listener(waiting(seen, 2.0))
    listener(rejected(hidden, at=3.0))
    assert listener.read_seconds(4.0) == {("chat", "llm_api", "slot", "batch"): 2.0}


def test_wait_without_a_known_begin_is_unknown() -> None:
    listener = BlameListener()
    listener(granted(ticket("chat"), 10.0, waited=5.0))
    assert listener.read_seconds(20.0) == {("chat", "llm_api", "unknown", None): 5.0}
    blame = listener.get_last_blame()
    assert blame is not None
    assert (blame.causes, blame.agents) == ({"unknown": 5.0}, [])


def test_lost_events_leave_no_open_wait() -> None:
    listener = BlameListener()
    holder, waiter = ticket("batch"), ticket("chat")
    for event in (Limited(0.0, "llm_api", 1, 1), granted(holder, 0.0, waited=0.0), waiting(waiter, 1.0)):
        listener(event)
    before = listener.read_seconds(3.0)
    assert before == {("chat", "llm_api", "slot", "batch"): 2.0}
    # The events that end both are among those that were dropped.
    assert listener.read_seconds(100.0, events_dropped=7) == before
    listener(released(holder, 101.0))
    listener(waiting(ticket("chat"), 102.0))
    assert sum(listener.read_seconds(103.0).values()) == pytest.approx(3.0)


def test_holder_from_before_telemetry_is_to_blame() -> None:
    house = House(listens=False)
    holder = house.submit("batch")
    house.listen()
    house.submit("chat")
    house.clock.now += 2.0
    house.engine.release(holder)
    assert house.seconds() == {("chat", "slot", "batch"): 2.0}


def test_lease_whose_end_is_missing_is_corrected() -> None:
    listener = BlameListener()
    gone, holder = ticket("gone"), ticket("batch")
    for event in (Limited(0.0, "llm_api", 1, 1), granted(gone, 0.0, waited=0.0), granted(holder, 1.0, waited=0.0)):
        listener(event)
    listener(waiting(ticket("chat"), 2.0, holders=[holder]))
    assert listener.read_seconds(4.0) == {("chat", "llm_api", "slot", "batch"): 2.0}


def test_counter_never_falls() -> None:
    listener = BlameListener()
    holder, waiter = ticket("batch"), ticket("chat")
    for event in (Limited(0.0, "llm_api", 1, 1), granted(holder, 0.0, waited=0.0), waiting(waiter, 1.0)):
        listener(event)
    first = listener.read_seconds(3.0)
    # An event of a moment before the collection is delivered after it.
    listener(rejected(waiter, Outcome.CANCELLED, 2.9)._replace(waited=1.9))
    assert listener.read_seconds(4.0) == first


@pytest.mark.parametrize(("holders", "named"), [(20, 20), (25, 20)])
def test_first_twenty_holders_are_named(holders: int, named: int) -> None:
    listener = BlameListener()
    listener(Limited(0.0, "llm_api", holders, holders))
    for number in range(holders):
        listener(granted(ticket(f"agent-{number}"), 0.0, waited=0.0))
    listener(waiting(ticket("chat"), 1.0))
    seconds = listener.read_seconds(1.0 + holders)
    by = {holder: value for (_, _, _, holder), value in seconds.items()}
    assert by.pop("other", 0.0) == pytest.approx(holders - named)
    assert by == {f"agent-{number}": pytest.approx(1.0) for number in range(named)}


def test_sums_of_many_agents_are_split_once(monkeypatch: pytest.MonkeyPatch) -> None:
    splits: list[int] = []
    monkeypatch.setattr(blame, "iter_parts", lambda queue, *parts: splits.append(1) or iter_parts(queue, *parts))
    listener = BlameListener(CardinalityLimit(3))
    listener(Limited(0.0, "llm_api", 1, 1))
    listener(granted(ticket("holder"), 0.0, waited=0.0))
    for number in range(1000):
        listener(waiting(ticket(f"agent-{number}"), 1.0))
    seconds = listener.read_seconds(2.0)
    assert sum(seconds.values()) == pytest.approx(1000.0)
    assert {agent: value for (agent, *_), value in seconds.items()}["other"] == pytest.approx(997.0)
    assert len(splits) == 4


def test_folded_holder_is_itself_in_its_own_wait() -> None:
    listener = BlameListener()
    listener(Limited(0.0, "llm_api", 22, 22))
    for number in range(22):
        listener(granted(ticket(f"agent-{number}"), 0.0, waited=0.0))
    listener(waiting(ticket("agent-21"), 1.0))
    seconds = listener.read_seconds(23.0)
    assert seconds["agent-21", "llm_api", "self", None] == pytest.approx(1.0)
    assert seconds["agent-21", "llm_api", "slot", "other"] == pytest.approx(1.0)


def test_agents_of_two_tenants_are_two_agents() -> None:
    listener = BlameListener()
    listener(Limited(0.0, "llm_api", 1, 1))
    listener(granted(ticket("chat", tenant="acme"), 0.0, waited=0.0))
    listener(waiting(ticket("chat", tenant="globex"), 1.0))
    assert listener.read_seconds(2.0) == {("chat", "llm_api", "slot", "chat"): 1.0}


def test_listener_keeps_nothing_of_ended_requests() -> None:
    listener = BlameListener()
    for number in range(300):
        holder, waiter = ticket(f"agent-{number}"), ticket(f"agent-{number}")
        at = 10.0 * number
        for event in (
            granted(holder, at, waited=0.0),
            waiting(waiter, at + 1.0),
            released(holder, at + 2.0),
            granted(waiter, at + 2.0, waited=1.0),
            released(waiter, at + 3.0),
        ):
            listener(event)
    (queue,) = set(listener._queues.values())
    (pool,) = listener._pools.values()
    assert (queue.waits, queue.open, queue.own, queue.parts, pool.leases, pool.used) == ({}, {}, {}, [0], {}, 0)
