"""Resources that stand still: when that is told, how often, and in what words."""

from loco_otel._core.adaptive_limit import AdaptiveLimit
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.stall_detector import PATIENCE
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import Request, Throttled, ThrottleKind


def core(capacity: int | AdaptiveLimit) -> Scheduler:
    return Scheduler({"llm": capacity}, FifoPolicy)


def ask(scheduler: Scheduler, agent: str, at: float = 0.0) -> Ticket:
    ticket = Ticket(Request(agent, 1000, ("llm",)))
    scheduler.submit(ticket, at)
    return ticket


def told(scheduler: Scheduler, at: float) -> list[str]:
    return [str(stall) for stall in scheduler.stalls(at)]


def test_who_waits_and_who_holds_is_told_once() -> None:
    scheduler = core(1)
    ask(scheduler, "reader")
    ask(scheduler, "writer", at=10.0)
    ask(scheduler, "editor", at=20.0)

    assert told(scheduler, 9.0 + PATIENCE) == []
    assert told(scheduler, 10.0 + PATIENCE) == [
        "nothing has moved at llm for 60 s: 2 wait, the first is writer since 60 s; 1 hold: reader since 70 s"
    ]
    assert told(scheduler, 10.0 + 5 * PATIENCE) == []


def test_it_is_told_again_when_it_has_moved_meanwhile() -> None:
    scheduler = core(1)
    holder = ask(scheduler, "reader")
    ask(scheduler, "writer")
    assert len(told(scheduler, PATIENCE)) == 1
    holder.touched_at = PATIENCE + 1.0
    assert told(scheduler, 2 * PATIENCE) == []
    assert len(told(scheduler, 2 * PATIENCE + 1.0)) == 1


def test_nothing_is_told_where_nobody_waits_or_chunks_come() -> None:
    scheduler = core(2)
    ask(scheduler, "reader")
    assert told(scheduler, 10 * PATIENCE) == []
    streaming = ask(scheduler, "reader")
    ask(scheduler, "writer")
    streaming.touched_at = PATIENCE
    assert told(scheduler, 1.5 * PATIENCE) == []


def test_of_many_holders_some_are_named() -> None:
    scheduler = core(7)
    for number in range(7):
        ask(scheduler, f"agent-{number}")
    ask(scheduler, "late")
    (said,) = told(scheduler, PATIENCE)
    assert said.endswith("agent-4 since 60 s and 2 more")
    assert "; 7 hold: agent-0" in said


def test_each_long_pause_of_the_provider_is_told() -> None:
    scheduler = core(AdaptiveLimit())
    first = ask(scheduler, "reader")
    for at in (0.0, 1000.0):
        scheduler.advance(at)
        assert first.state is State.GRANTED
        scheduler.throttle(Throttled(at, first, 429, ThrottleKind.LOAD, 300.0, None))
        scheduler.suspend(first, at)
        scheduler.resume(first, at)
        (said,) = told(scheduler, at + PATIENCE)
        assert said.endswith("the first is reader since 60 s; its provider asked for a pause of another 240 s")
        assert told(scheduler, at + 2 * PATIENCE) == []
