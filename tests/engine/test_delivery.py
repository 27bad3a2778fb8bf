"""Delivery of events: no caller delivers other callers' events without bound, and none is lost or reordered."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

import loco_otel
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.scheduler import Scheduler
from loco_otel._engine import outbox
from loco_otel._engine.in_process import InProcessEngine
from loco_otel._runtime import process
from loco_otel.events import Event, Granted, Limited, Released, Request, Submitted
from loco_otel.testing import RecordingListener


def use_slot(engine: InProcessEngine) -> None:
    ticket = engine.create_ticket(Request("a", resources=("llm",)))
    engine.submit(ticket)
    engine.release(ticket)


class Feedback:
    """A listener during which more events are emitted than it receives, as other threads do under load."""

    def __init__(self, engine: InProcessEngine) -> None:
        self.engine = engine
        self.received: list[Event] = []
        self.threads: list[int] = []

    def __call__(self, event: Event) -> None:
        self.received.append(event)
        self.threads.append(threading.get_ident())
        if len(self.received) <= 1000:
            use_slot(self.engine)


def test_caller_returns_while_events_keep_coming() -> None:
    engine = InProcessEngine(Scheduler({"llm": 4}, FifoPolicy))
    listener = Feedback(engine)
    engine.add_listener(listener)
    use_slot(engine)
    assert listener.threads.count(threading.get_ident()) <= 2 * 64, "two operations, each with its bound"
    while len(listener.received) < 1 + 3 * 1001:
        engine.flush()
    submitted = [event.ticket for event in listener.received if isinstance(event, Submitted)]
    released = [event.ticket for event in listener.received if isinstance(event, Released)]
    assert len(set(submitted)) == len(submitted) == len(released) == 1001, "each event is delivered once"
    assert [event.at for event in listener.received] == sorted(event.at for event in listener.received)


def test_events_dropped_by_slow_listeners_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_MAX_EVENTS", 10)
    engine = InProcessEngine(Scheduler({"llm": 4}, FifoPolicy), timer=False)
    received: list[Event] = []
    engine.add_listener(received.append)
    engine._outbox.batch_size = 1000
    for _ in range(5):
        use_slot(engine)
    assert engine._outbox.dropped == 1 + 5 * 3 - 10


def test_flush_reports_whether_another_thread_still_delivers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_FLUSH_TIMEOUT", 0.01)
    engine = InProcessEngine(Scheduler({"llm": 4}, FifoPolicy))
    entered, leave = threading.Event(), threading.Event()
    received: list[Event] = []

    def slow(event: Event) -> None:
        entered.set()
        leave.wait()
        received.append(event)

    engine.add_listener(slow)
    caller = threading.Thread(target=use_slot, args=(engine,))
    caller.start()
    entered.wait()
    assert not engine.flush()
    leave.set()
    caller.join()
    while not engine.flush():
        pass
    assert [type(event) for event in received] == [Limited, Submitted, Granted, Released]


class Selective:
    """A listener with handlers, of which that of releases may fail."""

    def __init__(self, *, fails: bool = False) -> None:
        self.received: list[Event] = []
        self.event_handlers: dict[type[Event], Callable[[Any], None]] = {
            Granted: self.received.append,
            Released: self._fail if fails else self.received.append,
        }

    def __call__(self, event: Event) -> None:
        raise AssertionError("called in place of its handlers")

    def _fail(self, _: Event) -> None:
        raise ValueError


def test_listener_with_handlers_gets_the_events_that_it_handles(caplog: pytest.LogCaptureFixture) -> None:
    engine = InProcessEngine(Scheduler({"llm": 4}, FifoPolicy), timer=False)
    first, failing, late = Selective(), Selective(fails=True), Selective()
    engine.add_listener(first)
    engine.add_listener(failing)
    use_slot(engine)
    engine.add_listener(late)
    use_slot(engine)
    assert [type(event) for event in first.received] == [Granted, Released] * 2
    assert [type(event) for event in failing.received] == [Granted], "removed when it raised"
    assert [type(event) for event in late.received] == [Granted, Released]
    assert len(caplog.records) == 1


def test_recorder_returns_events_that_are_not_delivered_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox.Outbox, "_deliver_bounded", lambda *_: None)  # the background thread has not run yet
    recorder = RecordingListener()
    process.get_runtime().engine.add_listener(recorder)
    with loco_otel.slot("a"):
        assert len(recorder.of(Granted)) == 1
    assert [type(event) for event in recorder.events] == [Limited, Submitted, Granted, Released]
