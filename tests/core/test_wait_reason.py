"""The reason of a wait: slots, a reservation, a rate or a pause of the provider."""

from loco_otel._core.adaptive_limit import AdaptiveLimit
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.provider_pause import record_throttling
from loco_otel._core.reconfiguration import set_resource
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import Request, Throttled, ThrottleKind, Waiting, WaitReason


def submit(core: Scheduler, now: float = 0.0, resources: tuple[str, ...] = ("llm",)) -> Ticket:
    ticket = Ticket(Request("a", resources=resources))
    core.submit(ticket, now)
    return ticket


def last_reason(core: Scheduler) -> WaitReason:
    """Return the reason of the wait that began last."""
    return [event for event in core.events if isinstance(event, Waiting)][-1].reason


def observed_core(capacity: int | AdaptiveLimit = 2, guard: int = 0) -> Scheduler:
    core = Scheduler({"llm": capacity, "tool": 1}, FifoPolicy, max_wait_ticks=guard)
    core.observed = True
    return core


def test_reason_is_slots_while_all_are_held() -> None:
    core = observed_core(1)
    submit(core)
    submit(core)
    assert last_reason(core) is WaitReason.SLOTS


def test_reason_is_rate_limit_while_slots_are_free() -> None:
    core = observed_core(2)
    set_resource(core, "llm", 2, 0.0, requests_per_minute=1)
    core.release(submit(core), 0.0)
    assert submit(core).state is State.WAITING
    assert last_reason(core) is WaitReason.RATE_LIMIT


def test_reason_is_provider_pause_after_a_refusal() -> None:
    core = observed_core(AdaptiveLimit())
    refused = submit(core)
    record_throttling(core, Throttled(1.0, refused, 429, ThrottleKind.LOAD, 30.0, None))
    core.cancel(refused, 1.0)
    assert submit(core, 2.0).state is State.WAITING
    assert last_reason(core) is WaitReason.PROVIDER_PAUSE


def test_reason_is_reserved_behind_the_guard_of_a_wide_request() -> None:
    core = observed_core(2, guard=1)
    tool, first, second = submit(core, resources=("tool",)), submit(core), submit(core)
    wide = submit(core, resources=("llm", "tool"))
    core.release(first, 1.0)
    third = submit(core, 1.0)
    core.release(third, 2.0)
    assert wide.state is State.WAITING
    assert submit(core, 3.0).state is State.WAITING
    assert last_reason(core) is WaitReason.RESERVED
    core.release(tool, 4.0)
    assert wide.state is State.GRANTED
    core.release(second, 5.0)
