"""A forked child counts from nothing: its parent exports what it has counted itself, as another instance."""

import pytest
from forked_child import run_in_child
from opentelemetry.sdk.metrics import Histogram, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from telemetry_scenario import Rig, granted, released, spent, ticket, wait_for_everything, waiting

from loco_otel._telemetry.sdk_points import discard_points

SPEND, REQUESTS, WAITS = "loco.spend", "loco.acquire.requests", "loco.wait.duration"
GRANTED = ("analyst", "granted", "llm_api")


def tell_call(rig: Rig) -> None:
    call = ticket(provider="openai", model="gpt-4o")
    rig.tell(granted(call), spent(call), released(call))


def test_child_counts_from_zero() -> None:
    rig = Rig()
    tell_call(rig)
    before = rig.points(SPEND)
    assert sum(before.values()) == 0.0025

    def check_child() -> None:
        assert sum(rig.points(SPEND).values()) == 0
        assert rig.points(REQUESTS)[GRANTED] == 0
        tell_call(rig)
        assert rig.points(SPEND) == before
        assert rig.points(REQUESTS)[GRANTED] == 1

    assert run_in_child(check_child)
    assert rig.points(SPEND) == before


def test_child_has_no_measurements_of_its_parent() -> None:
    rig = Rig()
    for _ in range(3):
        tell_call(rig)
    key = ("analyst", "granted", "normal", "llm_api")
    assert rig.points(WAITS) == {key: 3}
    tell_call(rig)

    def check_child() -> None:
        assert rig.points(WAITS) == {}
        tell_call(rig)
        tell_call(rig)
        assert rig.points(WAITS) == {key: 2}

    assert run_in_child(check_child)
    assert rig.points(WAITS) == {key: 4}


def test_first_delta_of_child_is_its_own() -> None:
    delta = dict.fromkeys((ObservableCounter, Histogram), AggregationTemporality.DELTA)
    reader = InMemoryMetricReader(delta)
    rig = Rig(readers=[reader])
    rig.reader, cumulative = reader, rig.reader
    for _ in range(3):
        tell_call(rig)
    assert rig.points(REQUESTS)[GRANTED] == 3

    def check_child() -> None:
        tell_call(rig)
        assert rig.points(REQUESTS)[GRANTED] == 1

    assert run_in_child(check_child)
    tell_call(rig)
    assert rig.points(REQUESTS)[GRANTED] == 1
    rig.reader = cumulative
    assert rig.points(REQUESTS)[GRANTED] == 4


def test_child_waits_from_zero() -> None:
    rig = Rig()
    wait_for_everything(rig)
    before = rig.points("loco.wait.time")
    assert sum(before.values()) > 0

    def check_child() -> None:
        assert rig.points("loco.wait.time") == {}
        holder, waiter = ticket("batch"), ticket()
        rig.tell(granted(holder, 1100.0, waited=0.0), waiting(waiter, 1101.0), released(holder, 1103.0))
        rig.tell(granted(waiter, 1103.0, waited=2.0))
        assert sum(rig.points("loco.wait.time").values()) == 2.0

    assert run_in_child(check_child)
    assert rig.points("loco.wait.time") == before


def test_child_reads_no_snapshot_of_its_parent() -> None:
    rig = Rig()
    rig.metrics()
    rig.clock.now -= 1  # so that the next collection is at the same moment

    def check_child() -> None:
        taken = rig.snapshots
        rig.metrics()
        assert rig.snapshots == taken + 1

    assert run_in_child(check_child)


def test_child_drops_of_events_count_from_zero() -> None:
    rig = Rig()
    rig.events_dropped = 7
    rig.metrics()

    def check_child() -> None:
        rig.events_dropped = 0  # as the outbox of a child
        rig.tell(granted(ticket()))
        rig.metrics()
        rig.events_dropped = 1
        first = rig.points("loco.slot.time")
        assert rig.points("loco.slot.time") == first

    assert run_in_child(check_child)


@pytest.mark.parametrize("before", ["telemetry", "measurements"])
def test_child_of_process_without_measurements_counts(before: str) -> None:
    rig = Rig() if before == "measurements" else None

    def check_child() -> None:
        own = rig or Rig()
        tell_call(own)
        assert own.points(REQUESTS)[GRANTED] == 1

    assert run_in_child(check_child)


def test_points_of_another_sdk_stay() -> None:
    discard_points(object())
