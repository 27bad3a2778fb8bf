"""Stalled resources: when they are reported, how often, and in what words."""

from loco_otel._core.adaptive_limit import AdaptiveLimit
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.provider_pause import record_throttling
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.stall_detector import STALL_AFTER, detect_stalls
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import Request, Throttled, ThrottleKind


def core(capacity: int | AdaptiveLimit) -> Scheduler:
    return Scheduler({"llm": capacity}, FifoPolicy)


def ask(scheduler: Scheduler, agent: str, at: float = 0.0) -> Ticket:
    ticket = Ticket(Request(agent, 1000, ("llm",)))
    scheduler.submit(ticket, at)
    return ticket


def told(scheduler: Scheduler, at: float) -> list[str]:
    return [str(stall) for stall in detect_stalls(scheduler.resources, at)]


def test_stall_is_reported_once_with_waiters_and_holders() -> None:
    scheduler = core(1)
    ask(scheduler, "reader")
    ask(scheduler, "writer", at=10.0)
    ask(scheduler, "editor", at=20.0)

    assert told(scheduler, 9.0 + STALL_AFTER) == []
    (text,) = told(scheduler, 10.0 + STALL_AFTER)
    assert text == (
        "no call at llm has progressed for 60 s: 2 waiting, the oldest of writer for 60 s; "
        "1 holding a slot: reader for 70 s. The calls keep waiting: `loco-otel ps` lists them, "
        "LOCO_ACQUIRE_TIMEOUT limits a wait, and LOCO_MAX_HOLD frees slots that are not used"
    )
    assert told(scheduler, 10.0 + 5 * STALL_AFTER) == []


def test_stall_is_reported_again_after_progress() -> None:
    scheduler = core(1)
    holder = ask(scheduler, "reader")
    ask(scheduler, "writer")
    assert len(told(scheduler, STALL_AFTER)) == 1
    holder.touched_at = STALL_AFTER + 1.0
    assert told(scheduler, 2 * STALL_AFTER) == []
    assert len(told(scheduler, 2 * STALL_AFTER + 1.0)) == 1


def test_nothing_is_reported_without_waiters_or_with_chunks() -> None:
    scheduler = core(2)
    ask(scheduler, "reader")
    assert told(scheduler, 10 * STALL_AFTER) == []
    streaming = ask(scheduler, "reader")
    ask(scheduler, "writer")
    streaming.touched_at = STALL_AFTER
    assert told(scheduler, 1.5 * STALL_AFTER) == []


def test_some_of_many_holders_are_named() -> None:
    scheduler = core(7)
    for number in range(7):
        ask(scheduler, f"agent-{number}")
    ask(scheduler, "late")
    (said,) = told(scheduler, STALL_AFTER)
    assert "agent-4 for 60 s and 2 more. The calls" in said
    assert "; 7 holding a slot: agent-0" in said


def test_each_long_provider_pause_is_reported() -> None:
    scheduler = core(AdaptiveLimit())
    first = ask(scheduler, "reader")
    for at in (0.0, 1000.0):
        scheduler.run_due_actions(at)
        assert first.state is State.GRANTED
        record_throttling(scheduler, Throttled(at, first, 429, ThrottleKind.LOAD, 300.0, None))
        scheduler.suspend_ticket(first, at)
        scheduler.resume_ticket(first, at)
        (said,) = told(scheduler, at + STALL_AFTER)
        assert "the oldest of reader for 60 s; the provider's pause lasts another 240 s." in said
        assert told(scheduler, at + 2 * STALL_AFTER) == []
