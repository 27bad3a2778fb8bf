"""What refuses calls besides budgets: stops, the stop file, and the seconds and repeats of runs."""

import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loco_otel._budgets.governor import Governor
from loco_otel._budgets.run_table import RunTable, ToolCall
from loco_otel._budgets.stops import Stop, Stops, parse_stop_file
from loco_otel._config.settings import Settings
from loco_otel._core.policies.registry import make_policy_factory
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.in_process import InProcessEngine
from loco_otel.errors import RunLimitError, StoppedError
from loco_otel.events import LimitAction, LimitDecided, LimitReason, Outcome, Request
from loco_otel.money import Scope
from loco_otel.testing import ManualClock, RecordingListener

RUN = Stop(Scope.RUN, "r")


class Bench:
    """A governor before an engine with one slot, under a clock of its own."""

    def __init__(self, **settings: object) -> None:
        environ = {f"LOCO_{key.upper()}": str(value) for key, value in settings.items()}
        self.clock = ManualClock()
        core = Scheduler({"llm_api": 1}, make_policy_factory("fifo", alpha=0.25, shares={}, draw=lambda: 0.5))
        self.engine = InProcessEngine(core, clock=self.clock, timer=False)
        self.seen = RecordingListener()
        self.engine.add_listener(self.seen)
        self.governor = Governor(Settings.load(environ), self.engine, self.clock)

    def call(self, run: str | None = "r", tool_calls: tuple[ToolCall, ...] = (), **request: Any) -> Ticket:
        ticket = self.engine.create_ticket(Request("a", run=run, **request))
        self.governor.submit(self.engine, ticket, tool_calls)
        return ticket

    def decisions(self) -> list[tuple[LimitReason, LimitAction]]:
        self.engine.flush()
        return [(event.reason, event.action) for event in self.seen.events if isinstance(event, LimitDecided)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture(autouse=True)
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests, and no timer, look at the stop file."""
    monkeypatch.setattr("loco_otel._engine.timer.Timer.start_watching", lambda *_: True)


def repeated(times: int, number: int, name: str = "search", arguments: object = '{"q": 1}') -> tuple[ToolCall, ...]:
    return tuple(ToolCall(name, arguments, f"{number}-{time}") for time in range(times))


@pytest.mark.parametrize(
    ("stop", "others"),
    [
        (RUN, {"run": "s"}),
        (Stop(Scope.SESSION, "s"), {"session": "t"}),
        (Stop(Scope.AGENT, "a"), None),
        (Stop(Scope.TENANT, "t"), {"tenant": "u"}),
    ],
)
def test_stop_rejects_waiters_and_new_calls_until_resumed(
    bench: Bench, stop: Stop, others: dict[str, str] | None
) -> None:
    own = {"run": "r", "session": "s", "tenant": "t"}
    holder = bench.call(**own)
    waiter = bench.call(**own)
    other = None if others is None else bench.call(**{**own, **others})
    assert bench.governor.stop(stop) == 1
    assert (holder.state, waiter.state, waiter.outcome) == (State.GRANTED, State.REJECTED, Outcome.STOPPED)
    assert isinstance(waiter.denial, StoppedError)
    assert (waiter.denial.scope, waiter.denial.key) == (stop.scope, stop.key)
    assert other is None or other.state is State.WAITING
    refused = bench.call(**own)
    assert (refused.state, type(refused.denial)) == (State.REJECTED, StoppedError)
    assert bench.governor.stop(stop) == 0, "idempotent"
    assert bench.governor.resume(stop)
    assert not bench.governor.resume(stop)
    assert bench.call(**own).state is State.WAITING
    assert not bench.governor.is_active
    assert bench.decisions() == [(LimitReason.STOPPED, LimitAction.REFUSED)] * 2


def test_call_stopped_as_it_is_submitted_does_not_wait(bench: Bench) -> None:
    bench.call()
    ticket = bench.engine.create_ticket(Request("a", run="r"))
    bench.engine.submit(ticket)  # after its check, before the stop lists it
    bench.governor.has_stops, bench.governor._stops = True, Stops({RUN: False})
    bench.governor.recheck_waiter(ticket)
    assert ticket.state is State.REJECTED


def test_call_granted_after_a_stop_is_not_sent(bench: Bench) -> None:
    ticket = bench.engine.create_ticket(Request("a", run="r"))
    bench.governor.stop(RUN)
    bench.engine.submit(ticket)  # it was checked before the stop
    assert ticket.state is State.GRANTED
    with pytest.raises(StoppedError):
        bench.governor.raise_if_stopped(ticket)
    assert bench.decisions() == [(LimitReason.STOPPED, LimitAction.REFUSED)]


def test_number_of_stops_does_not_slow_a_check() -> None:
    class Asked:
        """A request that counts its reads."""

        reads = 0

        def __getattr__(self, _: str) -> str:
            self.reads += 1
            return "none of them"

    for number in (1, 1000):
        request: Any = Asked()
        stops = Stops({Stop(scope, f"x{n}"): True for scope in (Scope.RUN, Scope.AGENT) for n in range(number)})
        assert (stops.find_stop(request), stops.find_abort(request), request.reads) == (None, None, 4)


def test_aborted_streams_get_the_error_of_the_stop(bench: Bench) -> None:
    ticket, other = bench.call(), bench.call("s")
    errors: list[Exception] = []
    body: Any = SimpleNamespace(abort=errors.append)
    ticket.body = other.body = lambda: body
    bench.governor.stop(RUN)
    assert not errors
    bench.governor.stop(RUN, abort_streams=True)
    assert [type(error) for error in errors] == [StoppedError]


def test_stop_file_is_read_when_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "stop"
    bench = Bench(stop_file=file)
    assert bench.call().state is State.GRANTED, "a missing file stops nothing"
    waiter = bench.call("s")
    file.write_text("# tonight\nrun=r\n\nagent = b\nnonsense\n")
    assert bench.call().state is State.REJECTED
    assert "'nonsense'" in caplog.text
    assert waiter.state is State.WAITING
    file.write_text("run=s abort_streams\n")
    bench.governor.watch_file()  # as the timer does while no call comes
    assert waiter.state is State.REJECTED
    assert bench.call().state is State.WAITING
    file.write_text("*")
    assert bench.call("t").state is State.REJECTED
    file.unlink()
    assert bench.call("s").state is State.WAITING


def test_stop_file_outlives_a_change_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stop").write_text("run=r")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    settings = Settings.load({"LOCO_STOP_FILE": "stop"})
    bench = Bench(stop_file="stop")
    monkeypatch.chdir("other")
    assert bench.call().state is State.REJECTED
    bench.governor.apply_settings(settings.changed(capacity=2))
    assert bench.call().state is State.REJECTED


@pytest.fixture
def stop_file(tmp_path: Path) -> Path:
    file = tmp_path / "stop"
    file.write_text("run=r")
    return file


@pytest.mark.parametrize("operation", ["open", "stat"])
def test_unreadable_stop_file_is_read_once_it_can_be(
    operation: str, stop_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(stop_file=stop_file)
    stop_file.write_text("run=s and more")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("not yours")

    with monkeypatch.context() as patch:
        patch.setattr(Path, operation, refuse)
        for _ in range(3):
            assert bench.call().state is State.REJECTED, "nothing has changed"
    assert caplog.text.count("not yours") == 1
    stop_file.write_text("run=s")
    os.utime(stop_file, (1, 1))
    assert bench.call("s").state is State.REJECTED
    assert bench.call().state is State.GRANTED


def test_too_large_stop_file_changes_nothing(stop_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(stop_file=stop_file)
    stop_file.write_text("run=s\n" + "#" * 1_000_000)
    for _ in range(3):
        assert bench.call().state is State.REJECTED
        assert bench.call("s").state is not State.REJECTED
    assert caplog.text.count("more than 1000000 bytes") == 1
    stop_file.write_text("run=s\n" + "#" * 900_000)
    assert bench.call("s").state is State.REJECTED


def test_run_is_refused_after_its_seconds() -> None:
    bench = Bench(run_limits="seconds=60")
    assert bench.call().state is State.GRANTED
    bench.clock.advance(60)
    assert bench.call().state is State.WAITING
    bench.clock.advance(0.5)
    late = bench.call()
    assert isinstance(late.denial, RunLimitError)
    assert (late.outcome, late.denial.run, late.denial.limit) == (Outcome.LIMIT, "r", "seconds")
    assert bench.call("s").state is State.WAITING
    assert bench.call(None).state is State.WAITING
    bench.clock.advance(901)
    assert bench.call().state is State.WAITING, "a silent run is forgotten"


def test_repeats_warn_at_the_number_and_refuse_at_twice(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(run_limits="repeats=3")
    states = [bench.call(tool_calls=repeated(1, number)).state for number in range(8)]
    assert states == [State.GRANTED, *[State.WAITING] * 4, *[State.REJECTED] * 3]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "'search' 3 times; at 6" in caplog.text
    assert "q" not in caplog.text.replace("request", ""), "arguments are not logged"
    warned, refused = (LimitReason.RUN_REPEATS, LimitAction.WARNED), (LimitReason.RUN_REPEATS, LimitAction.REFUSED)
    assert bench.decisions() == [warned, refused, refused, refused]


def test_replay_of_identical_tool_calls_ends_at_the_number() -> None:
    bench = Bench(run_limits="repeats=5")
    sent = [bench.call(tool_calls=repeated(1, number)).state is not State.REJECTED for number in range(220)]
    assert sum(sent) == 9
    assert sent == sorted(sent, reverse=True)


def test_request_that_is_sent_again_repeats_nothing() -> None:
    bench = Bench(run_limits="repeats=1")
    states = [bench.call(tool_calls=repeated(1, 0)).state for _ in range(5)]
    assert State.REJECTED not in states


def test_request_of_several_equal_calls_sent_again_counts_once() -> None:
    bench = Bench(run_limits="repeats=3")
    for number in (0, 1, 0, 1, 0):  # two conversations, each in the pauses of the other
        assert bench.call(tool_calls=repeated(2, number)).state is not State.REJECTED
    assert bench.call(tool_calls=repeated(2, 2)).state is State.REJECTED


def test_warning_is_not_skipped_by_equal_calls_of_one_turn(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(run_limits="repeats=3")
    for number in range(2):
        bench.call(tool_calls=(*repeated(2, number), ToolCall("other", "{}", number)))
    assert "'search' 4 times; at 6" in caplog.text
    bench.call(tool_calls=(*repeated(1, 2), ToolCall("other", "{}", 2)))
    assert "'other' 3 times; at 6" in caplog.text, "though 'search' has occurred more often"
    assert bench.decisions() == [(LimitReason.RUN_REPEATS, LimitAction.WARNED)] * 2


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.sampled_from("rs")), max_size=30))
def test_run_within_its_limits_is_never_refused(calls: list[tuple[str, int, str]]) -> None:
    most = max((calls.count(call) for call in calls), default=0)
    bench = Bench(run_limits=f"repeats={most // 2 + 1},seconds={len(calls) + 1}")
    for number, (name, argument, run) in enumerate(calls):
        bench.clock.advance(1)
        assert bench.call(run, (ToolCall(name, argument, number),)).state is not State.REJECTED


def test_observe_refuses_nothing_and_counts_it() -> None:
    bench = Bench(mode="observe", run_limits="repeats=1,seconds=10")
    bench.governor.stop(RUN, abort_streams=True)
    first, second = bench.call(), bench.call()
    assert (first.state, second.state) == (State.GRANTED, State.WAITING)
    bench.governor.resume(RUN)
    bench.call(tool_calls=repeated(2, 0))
    bench.clock.advance(11)
    bench.call()
    would = LimitAction.WOULD
    assert bench.decisions() == [
        (LimitReason.STOPPED, would),
        (LimitReason.STOPPED, would),
        (LimitReason.RUN_REPEATS, LimitAction.WARNED),
        (LimitReason.RUN_REPEATS, would),
        (LimitReason.RUN_SECONDS, would),
    ]


def test_observe_counts_deadlines_that_have_passed() -> None:
    bench = Bench(mode="observe")
    bench.clock.advance(10)
    early, late = bench.call(deadline=11.0), bench.call(deadline=9.0)
    assert {early.state, late.state} == {State.GRANTED, State.WAITING}
    assert (early.request.deadline, late.request.deadline) == (None, None)
    assert bench.decisions() == [(LimitReason.DEADLINE, LimitAction.WOULD)]


@pytest.mark.parametrize("arguments", ['{"a": 1, "b": 2}', '{"b": 2, "a": 1}', {"b": 2, "a": 1}])
def test_equal_arguments_are_one_call_in_any_order(arguments: object) -> None:
    table = RunTable(900)
    table.count_tool_calls("r", [ToolCall("t", '{"a":1,"b":2}', 1)], 0)
    repeats = table.count_tool_calls("r", [ToolCall("t", arguments, 2), ToolCall("u", arguments, 3)], 0)
    assert repeats == (("t", 1, 2), ("u", 0, 1))


@pytest.mark.parametrize("arguments", ["no json", "\udc80", {1: {2}}, [[[]]], None, "[" * 100_000])
def test_any_arguments_are_counted(arguments: object) -> None:
    table = RunTable(900)
    counts = [table.count_tool_calls("r", [ToolCall("t", arguments)], 0) for _ in range(2)]
    assert counts == [(("t", 0, 1),), (("t", 1, 2),)]


def test_table_forgets_silent_runs_and_old_tool_calls() -> None:
    table = RunTable(900)
    for number in range(1000):
        table.record_call(f"r{number}", number)
        table.count_tool_calls("r", [ToolCall("t", number)], number)
    assert len(table) == 900 + 1
    for number in range(300):
        table.count_tool_calls("s", [ToolCall("t", number, number)], 1000)
    assert table.count_tool_calls("s", [ToolCall("t", 299, 0)], 1000) == (("t", 1, 2),)
    assert table.count_tool_calls("s", [ToolCall("t", 0, 1)], 1000) == (("t", 0, 1),)
    assert table.count_tool_calls("r", [ToolCall("t", 0)], 1000) == (("t", 0, 1),)


def test_line_of_a_stop_file_with_an_equals_sign_in_the_key() -> None:
    assert parse_stop_file(["run=a=b", "workflow=x", "run="]) == (
        {Stop(Scope.RUN, "a=b"): False},
        ["workflow=x", "run="],
    )
