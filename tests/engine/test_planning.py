"""The timer is woken in time for what is due before its next check."""

import threading
from collections.abc import Callable

import pytest
from forked_child import run_in_child
from patience import PATIENCE

from loco_otel._core.policies.fair import FairPolicy
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.reconfiguration import set_resource
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.stall_detector import STALL_AFTER
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine import in_process, timer
from loco_otel._engine.in_process import InProcessEngine
from loco_otel.events import Outcome, Request
from loco_otel.testing import ManualClock


class Told:
    """Replaces the timer: counts how often it is woken."""

    def __init__(self, _: object) -> None:
        self.times = 0

    def start_watching(self, _: Callable[[], float]) -> bool:
        self.times += 1
        return True


def ask(engine: InProcessEngine, resource: str) -> Ticket:
    ticket = engine.create_ticket(Request("a", resources=(resource,)))
    engine.submit(ticket)
    return ticket


def test_rate_limited_waiter_is_granted_at_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    told_timer = Told(None)
    monkeypatch.setattr(in_process, "Timer", lambda _: told_timer)
    clock = ManualClock()
    core = Scheduler({"narrow": 1}, FifoPolicy)
    set_resource(core, "slow", None, 0.0, requests_per_minute=120)
    engine = InProcessEngine(core, clock=clock)
    ask(engine, "narrow")
    assert ask(engine, "narrow").state is State.WAITING
    for _ in range(120):
        ask(engine, "slow")
    told = told_timer.times
    waiting = ask(engine, "slow")
    assert (waiting.state, told_timer.times) == (State.WAITING, told + 1), "half a second is less than a heartbeat"
    clock.advance(0.5)
    engine.run_due_actions()
    assert waiting.state is State.GRANTED


def test_timer_without_a_thread_is_logged_once_and_retried(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start_thread = timer.start_new_thread
    attempts = []

    def refuse(*_: object) -> int:
        attempts.append(engine._lock._is_owned())
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(timer, "start_new_thread", refuse)
    engine = InProcessEngine(Scheduler({"narrow": 1}, FifoPolicy, max_hold=60.0))
    ask(engine, "narrow")
    waiting = engine.create_ticket(Request("b", resources=("narrow",), timeout=0.05))
    engine.submit(waiting)
    (fault,) = caplog.records
    assert (fault.levelname, len(attempts)) == ("ERROR", 2)
    assert "timer thread could not be started" in fault.getMessage()
    monkeypatch.setattr(timer, "start_new_thread", start_thread)
    decided = threading.Event()
    engine.park_ticket(waiting, decided.set, ())
    assert decided.wait(PATIENCE), "the timer, started now, ends the wait"
    assert waiting.outcome is Outcome.TIMEOUT


def test_recovery_after_an_exception_is_logged_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = InProcessEngine(Scheduler({"narrow": 1}, FifoPolicy), clock=ManualClock(), timer=False)
    holder = ask(engine, "narrow")
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(Scheduler, "start_snapshot", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                engine.take_snapshot()
        (resource,) = engine.take_snapshot().resources
        assert resource.active == 1
    (warning,) = caplog.records
    assert (warning.levelname, warning.name) == ("WARNING", "loco_otel")
    assert "its state was rebuilt" in warning.getMessage()
    assert engine.take_snapshot().recoveries == 2
    engine.release(holder)


def test_child_has_no_recoveries_of_its_parent() -> None:
    engine = InProcessEngine(Scheduler({"narrow": 1}, FifoPolicy), clock=ManualClock(), timer=False)
    engine._busy = True  # as an interruption leaves it
    assert engine.take_snapshot().recoveries == 1

    def check_child() -> None:
        assert engine.take_snapshot().recoveries == 0

    assert run_in_child(check_child)


def test_recovery_keeps_what_agents_were_served(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = InProcessEngine(Scheduler({"narrow": 1}, lambda: FairPolicy({})), clock=ManualClock(), timer=False)
    served = engine.create_ticket(Request("served", 9000, ("narrow",)))
    engine.submit(served)
    waiters = {agent: engine.create_ticket(Request(agent, 1000, ("narrow",))) for agent in ("served", "new")}
    for waiter in waiters.values():
        engine.submit(waiter)
    with monkeypatch.context() as patch:
        patch.setattr(Scheduler, "start_snapshot", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.take_snapshot()
    engine.release(served)
    assert [waiters[agent].state for agent in ("served", "new")] == [State.WAITING, State.GRANTED]


def test_thousand_waiters_without_a_bound_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    engine = InProcessEngine(Scheduler({"narrow": 1}, FifoPolicy), clock=ManualClock(), timer=False)
    for _ in range(1000):
        ask(engine, "narrow")
    engine.run_due_actions()
    assert not caplog.records, "one holds, and 999 wait"
    for _ in range(500):
        assert ask(engine, "narrow").state is State.WAITING
        engine.run_due_actions()
    (warning,) = caplog.records
    assert warning.levelname == "WARNING"
    assert "set LOCO_MAX_WAITERS" in warning.getMessage()


def test_bound_on_waiters_disables_the_warning(caplog: pytest.LogCaptureFixture) -> None:
    engine = InProcessEngine(Scheduler({"narrow": 1}, FifoPolicy, max_waiters=1000), clock=ManualClock(), timer=False)
    tickets = [ask(engine, "narrow") for _ in range(1002)]
    engine.run_due_actions()
    assert (tickets[-2].state, tickets[-1].outcome) == (State.WAITING, Outcome.BACKPRESSURE)
    assert not caplog.records


def test_timer_warns_of_stalls(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    engine = InProcessEngine(Scheduler({"narrow": 1}, FifoPolicy), clock=clock, timer=False)
    holder = ask(engine, "narrow")
    waiter = ask(engine, "narrow")
    for _ in range(3):
        clock.advance(STALL_AFTER)
        engine.run_due_actions()
    (warning,) = caplog.records
    assert (warning.levelname, warning.name) == ("WARNING", "loco_otel")
    assert "no call at narrow has progressed" in warning.getMessage()
    engine.release(holder)
    assert waiter.state is State.GRANTED
