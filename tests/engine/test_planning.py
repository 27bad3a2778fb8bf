"""The timer is told in time of what comes sooner than it would look."""

from collections.abc import Callable

import pytest

from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.stall_detector import STALL_AFTER
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine import in_process
from loco_otel._engine.in_process import InProcessEngine
from loco_otel.events import Request
from loco_otel.testing import ManualClock


class Told:
    """Stands for the timer: counts how often it is told to look."""

    def __init__(self, _: object) -> None:
        self.times = 0

    def start_watching(self, _: Callable[[], float]) -> None:
        self.times += 1


def ask(engine: InProcessEngine, resource: str) -> Ticket:
    ticket = engine.create_ticket(Request("a", resources=(resource,)))
    engine.submit(ticket)
    return ticket


def test_who_waits_for_the_time_is_looked_after_when_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = Told(None)
    monkeypatch.setattr(in_process, "Timer", lambda _: timer)
    clock = ManualClock()
    core = Scheduler({"narrow": 1}, FifoPolicy)
    core.set_resource("slow", None, 0.0, requests_per_minute=120)
    engine = InProcessEngine(core, clock=clock)
    ask(engine, "narrow")
    assert ask(engine, "narrow").state is State.WAITING
    for _ in range(120):
        ask(engine, "slow")
    told = timer.times
    waiting = ask(engine, "slow")
    assert (waiting.state, timer.times) == (State.WAITING, told + 1), "half a second is less than a heartbeat"
    clock.advance(0.5)
    engine.run_due_actions()
    assert waiting.state is State.GRANTED


def test_the_timer_warns_of_what_stands_still(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    engine = InProcessEngine(Scheduler({"narrow": 1}, FifoPolicy), clock=clock, timer=False)
    holder = ask(engine, "narrow")
    waiter = ask(engine, "narrow")
    for _ in range(3):
        clock.advance(STALL_AFTER)
        engine.run_due_actions()
    (warning,) = caplog.records
    assert (warning.levelname, warning.name) == ("WARNING", "loco_otel")
    assert "nothing has moved at narrow" in warning.getMessage()
    engine.release(holder)
    assert waiter.state is State.GRANTED
