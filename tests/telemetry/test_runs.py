"""The duration, waiting and slowdown of runs, from events by hand and from random ones beside a slow model."""

import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import pytest
from forked_child import run_in_child
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.instrumentation.utils import suppress_instrumentation
from patience import PATIENCE
from telemetry_scenario import FakeTicket, Rig, granted, rejected, released, spent, ticket, waiting

from loco_otel._telemetry import runs as runs_module
from loco_otel._telemetry.runs import FinishedRun, RunListener
from loco_otel.events import (
    Event,
    LimitAction,
    LimitDecided,
    LimitReason,
    Outcome,
    Priority,
    RunEnded,
    Submitted,
    Suspended,
)

IDLE = 900.0


def call(run: str | None = "r", **facts: Any) -> FakeTicket:
    return ticket(run=run, **facts)


def observe(*events: Event) -> list[FinishedRun]:
    """Return the runs that have ended, an hour after the last of some events."""
    runs = RunListener(IDLE)
    ended: list[FinishedRun] = []
    runs.record = ended.append
    for event in events:
        runs(event)
    assert list(runs.list_active_runs(events[-1].at + 3600)) == []
    return ended


def at(seconds: float, *events: Any) -> Iterable[Event]:
    return [event._replace(at=seconds) for event in events]


def test_run_that_waits_half_its_time_has_slowdown_two() -> None:
    one = call(workflow="digest", priority=Priority.BACKGROUND)
    (run,) = observe(*at(10, Submitted(0, one), waiting(one)), *at(14, granted(one)), *at(18, released(one)))
    assert run == FinishedRun("digest", "background", 8.0, 4.0)
    assert run.slowdown == 2.0


def test_time_between_calls_is_the_runs_own() -> None:
    one, two = call(), call()
    (run,) = observe(
        *at(0, Submitted(0, one), granted(one)),
        *at(1, released(one)),
        *at(4, Submitted(0, two), granted(two)),
        *at(5, released(two)),
    )
    assert run == FinishedRun("unknown", "normal", 5.0, 0.0)
    assert run.slowdown == 1.0


def test_part_of_the_calls_that_waits_is_the_part_that_is_lost() -> None:
    calls = [call() for _ in range(4)]
    (run,) = observe(
        *at(0, *[Submitted(0, it) for it in calls]),
        *at(0, granted(calls[0])),
        *at(4, granted(calls[1]), *[rejected(it) for it in calls[2:]]),
        *at(6, released(calls[0]), released(calls[1])),
    )
    assert run == FinishedRun("unknown", "normal", 6.0, 3.0)


def test_pause_of_a_retry_is_no_wait_and_the_wait_after_it_is() -> None:
    one = call()
    (run,) = observe(
        *at(0, Submitted(0, one), granted(one)),
        *at(1, Suspended(0, one, 1.0)),
        *at(3, waiting(one)),
        *at(5, granted(one, repeated=True)),
        *at(6, released(one)),
    )
    assert run == FinishedRun("unknown", "normal", 6.0, 2.0)


def test_run_that_only_waited_has_no_slowdown() -> None:
    one = call()
    (run,) = observe(*at(0, Submitted(0, one), waiting(one)), *at(9, rejected(one)))
    assert (run.duration, run.wait, run.slowdown) == (9.0, 9.0, None)


def test_run_ends_with_its_framework_or_after_silence() -> None:
    runs = RunListener(IDLE)
    ended: list[FinishedRun] = []
    runs.record = ended.append
    one, two = call("a"), call("b")
    for event in (*at(0, Submitted(0, one), granted(one), Submitted(0, two), granted(two)), *at(1, released(two))):
        runs(event)
    runs(RunEnded(2, "a"))
    runs(RunEnded(2, "never seen"))
    assert len(list(runs.list_active_runs(2))) == 2, "a call of it is under way"
    runs(*at(5, released(one)))
    assert [run.duration for run in ended] == [5.0]
    assert len(list(runs.list_active_runs(1 + IDLE - 1))) == 1
    assert list(runs.list_active_runs(1 + IDLE)) == []
    assert [run.duration for run in ended] == [5.0, 1.0]
    assert runs.get_attained_weight("a") is None


def test_calls_without_a_run_or_a_beginning_are_of_no_run() -> None:
    one = call("s")
    assert observe(*at(0, Submitted(0, call(None))), *at(0, granted(one)), *at(1, released(one))) == []


def test_forked_child_has_none_of_its_parents_runs() -> None:
    runs = RunListener(IDLE)
    ended: list[FinishedRun] = []
    runs.record = ended.append
    one, idle, own = call("a"), call("b"), call("a")
    for event in (*at(0, Submitted(0, one), granted(one), Submitted(0, idle), granted(idle)), *at(1, released(idle))):
        runs(event)

    def check_child() -> None:
        assert list(runs.list_active_runs(1)) == []
        for event in (*at(2, released(one), Submitted(0, own), granted(own)), *at(5, released(own))):
            runs(event)
        runs.finish_all(9)
        assert ended == [FinishedRun("unknown", "normal", 3.0, 0.0)]

    assert run_in_child(check_child)
    runs(*at(2, released(one)))
    assert len(list(runs.list_active_runs(2))) == 2


def test_runs_that_have_not_ended_are_recorded_at_the_end() -> None:
    runs = RunListener(IDLE)
    ended: list[FinishedRun] = []
    runs.record = ended.append
    done, held, waits = call("a"), call("b"), call("c")
    for event in (
        *at(0, Submitted(0, done), granted(done), Submitted(0, held), granted(held), Submitted(0, waits)),
        *at(1, released(done), waiting(waits)),
    ):
        runs(event)
    runs.finish_all(9)
    assert ended == [
        FinishedRun("unknown", "normal", 1.0, 0.0),
        FinishedRun("unknown", "normal", 9.0, 0.0),
        FinishedRun("unknown", "normal", 9.0, 9.0),
    ]
    assert list(runs.list_active_runs(9)) == []


def test_run_that_is_silent_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_module, "_MAX_RUNS", 2)
    runs = RunListener(IDLE)
    ended: list[FinishedRun] = []
    runs.record = ended.append
    held = call("held")
    runs(*at(0, Submitted(0, held)))
    for number in range(1, 4):
        short = call(f"short {number}")
        for event in (*at(number, Submitted(0, short), granted(short)), *at(number + 0.25 * number, released(short))):
            runs(event)
    assert [run.duration for run in ended] == [0.25, 0.5]
    second, third = call("second"), call("third")
    for event in at(5, Submitted(0, second), Submitted(0, third)):
        runs(event)
    assert [run.duration for run in ended] == [0.25, 0.5, 0.75]
    assert len(list(runs.list_active_runs(5))) == 2, "none is silent, so the third is not observed"


def test_suppressed_calls_have_no_run_metrics() -> None:
    rig = Rig()
    with suppress_instrumentation():
        one = call(context=rig.telemetry.create_trace())
    rig.tell(*at(0, Submitted(0, one), granted(one), spent(one)), *at(1, released(one)), RunEnded(2, "r"))
    assert rig.points("loco.runs.active") == {}
    assert "loco.run.duration" not in rig.metrics()


def test_close_records_the_runs_that_are_left() -> None:
    rig = Rig()
    one = call()
    rig.tell(*at(0, Submitted(0, one), granted(one)), *at(4, released(one)))
    rig.telemetry.close()
    (point,) = rig.metrics()["loco.run.duration"].data.data_points
    assert (point.count, point.sum) == (1, 4.0)


def test_run_under_way_is_exported_when_the_process_ends() -> None:
    program = """
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
import loco_otel
from loco_otel._runtime import process

def list_counts(data):
    metrics = [metric for metric in data.resource_metrics[0].scope_metrics[0].metrics if ".run." in metric.name]
    return "".join(f"{metric.name} {metric.data.data_points[0].count}\\n" for metric in metrics)

provider = MeterProvider([PeriodicExportingMetricReader(ConsoleMetricExporter(formatter=list_counts))])
process.get_runtime().start_telemetry(meter_provider=provider)
with loco_otel.as_agent("analyst", run="r"), loco_otel.slot():
    pass
print("the end")
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=True)
    lines = ["the end", "loco.run.duration 1", "loco.run.wait 1", "loco.run.slowdown 1"]
    assert ran.stdout.splitlines() == lines, ran.stderr


STEPS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), max_size=40)


@given(STEPS)
def test_wait_equals_that_of_a_model_of_each_second(steps: list[tuple[int, int]]) -> None:
    """Each call goes through its phases, one with each step that names it; seconds pass before each step."""
    listener, now = RunListener(IDLE), 0
    ended: list[FinishedRun] = []
    listener.record = ended.append
    calls = [call() for _ in range(4)]
    phases = [0] * 4  # not yet, waiting, under way, ended
    wait = last = first = 0.0
    begun = False
    for index, seconds in steps:
        waits, runs = phases.count(1), phases.count(2)
        wait += seconds * waits / (waits + runs) if waits else 0
        now += seconds
        if phases[index] == 3:
            continue
        kind = (lambda it: Submitted(0, it), granted, released)[phases[index]]
        (event,) = at(now, kind(calls[index]))  # type: ignore[operator]
        listener(event)
        phases[index] += 1
        first, begun, last = (first if begun else now), True, now
    for index, phase in enumerate(phases):
        if phase in (1, 2):
            waits, runs = phases.count(1), phases.count(2)
            event = rejected(calls[index]) if phase == 1 else released(calls[index])
            listener(event._replace(at=now))
            phases[index], last = 3, now
    listener.list_active_runs(now + IDLE)
    assert [(run.duration, run.wait) for run in ended] == ([(last - first, pytest.approx(wait))] if begun else [])


def test_metrics_have_workflow_and_priority_and_no_run() -> None:
    rig = Rig()
    one = call(workflow="digest", priority=Priority.INTERACTIVE)
    rig.tell(*at(990, Submitted(0, one), waiting(one)), *at(992, granted(one)))
    assert rig.points("loco.runs.active") == {("digest", "interactive"): 1}
    rig.tell(*at(994, released(one), RunEnded(0, "r")))
    assert rig.points("loco.runs.active") == {}
    for name in ("loco.run.duration", "loco.run.wait", "loco.run.slowdown"):
        (point,) = rig.metrics()[name].data.data_points
        assert dict(point.attributes) == {"gen_ai.workflow.name": "digest", "loco.priority": "interactive"}
        assert (point.count, point.sum) == (1, {"duration": 4.0, "wait": 2.0, "slowdown": 2.0}[name.rpartition(".")[2]])
    assert not [
        key
        for metric in rig.metrics().values()
        for point in metric.data.data_points
        for key in (point.attributes or {})
        if key == "loco.run.id"
    ]


def test_decisions_are_counted_by_reason_and_action() -> None:
    rig = Rig()
    one = call()
    rig.tell(
        LimitDecided(1.0, one, LimitReason.STOPPED, LimitAction.WOULD),
        LimitDecided(1.0, one, LimitReason.RUN_CALLS, LimitAction.REFUSED),
        rejected(one, outcome=Outcome.BACKPRESSURE),
        rejected(one, outcome=Outcome.CANCELLED),
    )
    points = rig.points("loco.limit.decisions")
    assert {point: count for point, count in points.items() if count} == {
        ("refused", "backpressure"): 1,
        ("refused", "run_calls"): 1,
        ("would", "stopped"): 1,
    }
    assert set(points) >= {("refused", reason.value) for reason in LimitReason}, "zeros before the first"


def test_acquire_span_has_the_run_and_its_decisions() -> None:
    rig = Rig()
    first, second = call(), call(deadline=1003.0, context=rig.telemetry.create_trace())
    rig.tell(Submitted(990.0, first), granted(first), spent(first), released(first))
    rig.tell(LimitDecided(991.0, second, LimitReason.RUN_REPEATS, LimitAction.WARNED))
    rig.tell(Submitted(990.0, second), granted(second, 995.0))
    attributes = rig.spans()[-1].attributes or {}
    assert attributes["loco.run.id"] == "r"
    assert attributes["loco.run.attained"] == 1.5
    assert attributes["loco.deadline"] == pytest.approx(13.0)
    (event,) = rig.spans()[-1].events
    assert (event.name, dict(event.attributes or {})) == (
        "loco.limit",
        {"loco.limit.reason": "run_repeats", "loco.limit.action": "warned"},
    )
