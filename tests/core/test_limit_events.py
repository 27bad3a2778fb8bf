"""Events of resources: limits that are set and change, and gates that close."""

from math import inf

from loco_otel._core.adaptive_limit import AdaptiveLimit
from loco_otel._core.limit_events import repeat_limit_events
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.provider_pause import record_throttling
from loco_otel._core.reconfiguration import set_resource
from loco_otel._core.recovery import rebuild_state
from loco_otel._core.resources import Capacity
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import Ticket
from loco_otel.clock import StatedDelay
from loco_otel.events import (
    Event,
    GateCause,
    Gated,
    Granted,
    GrantReason,
    Limited,
    Outcome,
    Rejected,
    Request,
    SlotTaken,
    Throttled,
    ThrottleKind,
)

LIMITS = Limited | Gated


def observed_core(*, max_wait_ticks: int = 0, **capacities: Capacity) -> Scheduler:
    core = Scheduler(capacities, FifoPolicy, max_wait_ticks=max_wait_ticks)
    core.observed = True
    return core


def submit(
    core: Scheduler, now: float, *names: str, agent: str = "a", tokens: int = 0, admission: bool = False
) -> Ticket:
    ticket = Ticket(Request(agent, resources=names or ("llm",), tokens=tokens, admission=admission))
    core.submit(ticket, now)
    return ticket


def take(core: Scheduler, *kinds: type[Event]) -> list[Event]:
    """Return the events of these kinds, by default those of limits, and remove all."""
    events, core.events = core.events, []
    return [event for event in events if isinstance(event, kinds or (Limited, Gated))]


def throttle(core: Scheduler, ticket: Ticket, now: float, retry_after: float | None = None) -> None:
    record_throttling(core, Throttled(now, ticket, 429, ThrottleKind.LOAD, retry_after, None))


def test_first_request_is_preceded_by_the_limit() -> None:
    core = observed_core(llm=2, other=None)
    submit(core, 1.0)
    assert core.events[0] == Limited(1.0, "llm", 2, 2)
    submit(core, 2.0, "other")
    assert take(core) == [Limited(1.0, "llm", 2, 2), Limited(2.0, "other", None, None)]
    submit(core, 3.0)
    assert take(core) == []


def test_limits_are_repeated_for_another_listener() -> None:
    core = observed_core(llm=2)
    submit(core, 1.0)
    take(core)
    repeat_limit_events(core.resources)
    submit(core, 2.0)
    assert take(core) == [Limited(2.0, "llm", 2, 2)]


def test_limits_are_repeated_after_a_recovery() -> None:
    core = observed_core(llm=2)
    submit(core, 1.0)
    take(core)
    # The event of an interrupted operation may be lost.
    rebuild_state(core, 2.0)
    submit(core, 3.0)
    assert Limited(2.0, "llm", 2, 2) in take(core)


def test_nothing_is_emitted_while_nothing_is_observed() -> None:
    core = Scheduler({"llm": AdaptiveLimit()}, FifoPolicy)
    ticket = submit(core, 1.0)
    throttle(core, ticket, 2.0, 5.0)
    core.set_capacity("llm", 3, 3.0)
    assert core.events == []


def test_changed_capacity_is_emitted() -> None:
    core = observed_core(llm=2)
    submit(core, 1.0)
    take(core)
    core.set_capacity("llm", 3, 2.0)
    core.set_capacity("llm", 3, 3.0)
    assert take(core) == [Limited(2.0, "llm", 3, 3)]


def test_refusal_lowers_the_limit_below_its_reference() -> None:
    core = observed_core(llm=AdaptiveLimit())
    holders = [submit(core, 1.0) for _ in range(8)]
    take(core)
    throttle(core, holders[0], 2.0)
    assert take(core) == [Limited(2.0, "llm", 4, 7)]
    for holder in holders[1:5]:
        core.release(holder, 3.0)
    # Each success raises the limit, and the level below the refused one stays the reference.
    assert take(core) == [Limited(3.0, "llm", slots, 7) for slots in (5, 6, 7)]


def test_pause_is_emitted_with_its_end_and_header() -> None:
    core = observed_core(llm=AdaptiveLimit())
    holder = submit(core, 1.0)
    take(core)
    delay = StatedDelay(5.0)
    delay.header = "retry-after"
    throttle(core, holder, 2.0, delay)
    throttle(core, holder, 3.0, 1.0)
    assert take(core, Gated) == [Gated(2.0, "llm", GateCause.BACKOFF, 7.0, "retry-after")]


def test_fixed_capacity_ends_the_pause_early() -> None:
    core = observed_core(llm=AdaptiveLimit())
    holder = submit(core, 1.0)
    throttle(core, holder, 2.0, 5.0)
    take(core)
    core.set_capacity("llm", 2, 3.0)
    assert take(core, Gated) == [Gated(3.0, "llm", GateCause.BACKOFF, 3.0)]


def test_rate_limit_closes_the_gate_of_its_queue() -> None:
    core = observed_core(llm=None)
    set_resource(core, "llm", None, 0.0, requests_per_minute=60, tokens_per_minute=6000)
    submit(core, 1.0, tokens=5000)
    take(core)
    waiter = submit(core, 1.0, tokens=2000)
    assert take(core) == [Gated(1.0, "llm", GateCause.TOKENS, 11.0, queue=("llm",))]
    core.run_due_actions(11.0)
    assert waiter.state.is_holding
    assert take(core) == [Gated(11.0, "llm", GateCause.TOKENS, 11.0, queue=("llm",))]


def test_limit_of_requests_has_its_own_cause() -> None:
    core = observed_core(llm=None)
    set_resource(core, "llm", None, 0.0, requests_per_minute=1)
    submit(core, 0.0)
    take(core)
    submit(core, 0.0)
    assert take(core) == [Gated(0.0, "llm", GateCause.REQUESTS, 60.0, queue=("llm",))]


def test_reservation_is_emitted_and_its_end() -> None:
    core = observed_core(max_wait_ticks=1, llm=1, tool=1)
    holder, other = submit(core, 0.0, "llm"), submit(core, 0.0, "tool")
    take(core)
    wide = submit(core, 1.0, "llm", "tool")
    take(core)
    core.release(other, 2.0)
    core.release(submit(core, 2.0, "tool"), 3.0)
    reserved = [event.reserved_for for event in take(core, Limited) if isinstance(event, Limited)]
    assert reserved[-1] == ("llm", "tool")
    core.release(holder, 4.0)
    assert wide.state.is_holding
    assert {event.reserved_for for event in take(core, Limited) if isinstance(event, Limited)} == {None}


def test_budget_check_begins_with_the_slot_and_counts_as_wait() -> None:
    core = observed_core(llm=1)
    admitted = submit(core, 1.0, admission=True)
    assert take(core, SlotTaken) == [SlotTaken(1.0, admitted)]
    core.admit_ticket(admitted, 3.0)
    (granted,) = take(core, Granted)
    assert isinstance(granted, Granted)
    assert (granted.at, granted.slot_at, granted.waited) == (3.0, 1.0, 2.0)


def test_refused_budget_has_the_time_of_its_slot() -> None:
    core = observed_core(llm=1)
    refused = submit(core, 1.0, admission=True)
    core.refuse_admission(refused, Outcome.BUDGET, 3.0)
    late = submit(core, 4.0)
    waiter = submit(core, 5.0)
    core.cancel(waiter, 6.0)
    rejections = [event for event in take(core, Rejected) if isinstance(event, Rejected)]
    assert [(event.at, event.slot_at, event.waited) for event in rejections] == [(3.0, 1.0, 2.0), (6.0, None, 1.0)]
    assert late.state.is_holding


def test_shared_slot_names_its_host() -> None:
    core = observed_core(llm=1)
    holder = Ticket(Request("a", resources=("llm",)))
    holder.scopes = ("thread",)
    core.submit(holder, 0.0)
    nested = submit(core, 1.0)
    core.park_ticket(nested, ("thread",), 1.0)
    grants = [event for event in take(core, Granted) if isinstance(event, Granted)]
    assert [event.reason for event in grants] == [GrantReason.FREE, GrantReason.REENTRANT]
    assert [dict(event.hosts) for event in grants] == [{}, {"llm": holder}]


def test_reference_of_an_unlimited_pool_is_unlimited() -> None:
    assert AdaptiveLimit().reference == inf
