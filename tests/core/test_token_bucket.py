"""Rates per minute: the bucket, and grants that wait for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loco_otel._core.adaptive_limit import AdaptiveLimit
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.provider_pause import record_rate_limits, record_throttling
from loco_otel._core.reconfiguration import set_resource
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel._core.token_bucket import TokenBucket, compute_refill_delay
from loco_otel.events import Outcome, RateLimits, Request, Spending, Throttled, ThrottleKind, Usage

GRANTED, WAITING = State.GRANTED, State.WAITING


@given(
    st.floats(1, 1e6),
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 2)), min_size=1, max_size=60),
)
def test_flow_never_exceeds_a_full_bucket_plus_the_inflow(per_minute: float, asked: list[tuple[float, float]]) -> None:
    rate = TokenBucket(per_minute)
    now = 0.0
    taken: list[tuple[float, float]] = []
    for pause, share in asked:
        amount = min(1.0, share) * per_minute
        now = max(now + pause, rate.compute_available_at(amount, now + pause))
        assert rate.compute_available_at(amount, now) <= now + 1e-6
        rate.take_tokens(amount, now)
        taken.append((now, amount))
    for first, (begin, _) in enumerate(taken):
        for last, (end, _) in enumerate(taken[first:], first):
            total = sum(amount for _, amount in taken[first : last + 1])
            assert total <= per_minute * (1 + (end - begin) / 60) * (1 + 1e-6)


def test_request_above_the_bucket_leaves_a_debt() -> None:
    rate = TokenBucket(60)
    assert rate.compute_available_at(600, 0.0) == 0.0
    rate.take_tokens(600, 0.0)
    assert rate.compute_available_at(1, 0.0) == pytest.approx(541.0)
    rate.take_tokens(-540, 0.0)
    assert rate.compute_available_at(1, 0.0) == pytest.approx(1.0), "it needed less, after all"


@given(st.floats(1, 1e6), st.floats(0, 1), st.floats(0, 1))
def test_bucket_of_a_provider_fills_evenly(size: float, left: float, needed: float) -> None:
    full_in = 60.0 * (1 - left)
    wait = compute_refill_delay(needed * size, left * size, size, full_in)
    assert wait == pytest.approx(max(0.0, 60.0 * (needed - left)), abs=1e-6)
    assert compute_refill_delay(needed * size, left * size, None, full_in) in (0.0, full_in)
    assert compute_refill_delay(2 * size, left * size, size, full_in) <= full_in


def core(requests: float | None = None, tokens: float | None = None) -> Scheduler:
    made = Scheduler({"llm": 100}, FifoPolicy)
    set_resource(made, "llm", 100, 0.0, requests_per_minute=requests, tokens_per_minute=tokens)
    return made


def ask(scheduler: Scheduler, now: float, tokens: int = 0, timeout: float | None = None) -> Ticket:
    ticket = Ticket(Request("a", resources=("llm",), tokens=tokens, timeout=timeout))
    scheduler.submit(ticket, now)
    return ticket


def test_requests_above_the_rate_wait_in_order() -> None:
    scheduler = core(requests=2)
    first = [ask(scheduler, 0.0) for _ in range(4)]
    assert [ticket.state for ticket in first] == [GRANTED, GRANTED, WAITING, WAITING]
    assert scheduler.compute_next_wakeup() == pytest.approx(30.0)
    scheduler.run_due_actions(29.0)
    assert first[2].state is WAITING
    scheduler.run_due_actions(30.0)
    assert [ticket.state for ticket in first[2:]] == [GRANTED, WAITING]
    # Its time has come when another arrives, before the timer has run.
    late = ask(scheduler, 60.0)
    assert (first[3].state, late.state) == (GRANTED, WAITING)


def test_tokens_are_taken_by_estimate_and_corrected() -> None:
    scheduler = core(tokens=1000)
    big = ask(scheduler, 0.0, tokens=800)
    following = ask(scheduler, 0.0, tokens=500)
    assert (big.state, following.state) == (GRANTED, WAITING)
    scheduler.record_spending(big, Spending(Usage(100, 100), 1000, None), 0.0)
    scheduler.release(big, 0.0)
    assert following.state is GRANTED, "it took 200, so 800 are left"


def test_failed_call_and_pause_return_their_tokens() -> None:
    scheduler = core(tokens=1000)
    failing = ask(scheduler, 0.0, tokens=800)
    following = ask(scheduler, 0.0, tokens=900)
    scheduler.suspend_ticket(failing, 0.0)
    assert following.state is GRANTED
    scheduler.cancel(following, 0.0)
    scheduler.resume_ticket(failing, 0.0)
    assert failing.state is GRANTED
    scheduler.cancel(failing, 0.0)
    assert ask(scheduler, 0.0, tokens=1000).state is GRANTED


def test_rate_limit_wait_can_time_out() -> None:
    scheduler = core(requests=1)
    ask(scheduler, 0.0)
    waiting = ask(scheduler, 0.0, timeout=5.0)
    assert scheduler.compute_next_wakeup() == 5.0
    scheduler.run_due_actions(5.0)
    assert waiting.state is State.REJECTED


def test_empty_bucket_grants_nothing_until_refilled() -> None:
    scheduler = Scheduler({"llm": AdaptiveLimit()}, FifoPolicy)
    first = ask(scheduler, 0.0)
    record_rate_limits(scheduler, first, RateLimits(remaining_requests=3, requests_reset=9.0), 1.0)
    assert ask(scheduler, 1.0).state is GRANTED
    record_rate_limits(scheduler, first, RateLimits(remaining_requests=0, requests_reset=9.0), 1.0)
    waiting = ask(scheduler, 1.0)
    assert (waiting.state, scheduler.compute_next_wakeup()) == (WAITING, 10.0)
    scheduler.run_due_actions(10.0)
    assert waiting.state is GRANTED


def test_nothing_is_granted_until_the_next_request_fits() -> None:
    scheduler = Scheduler({"llm": AdaptiveLimit()}, FifoPolicy)
    first = ask(scheduler, 0.0, tokens=1000)
    record_rate_limits(scheduler, first, RateLimits(7, 1000, 0.1, 50.0, 10, 6000), 1.0)
    assert ask(scheduler, 1.0).state is GRANTED, "one fits"
    record_rate_limits(scheduler, first, RateLimits(7, 400, 0.1, 56.0, 10, 6000), 1.0)
    ask(scheduler, 1.0)
    assert scheduler.compute_next_wakeup() == pytest.approx(1.0 + 6.0), "600 more, at 100 in a second"


@pytest.mark.parametrize(("retry_after", "pause"), [(2.0, 2.0), (None, 6.0)])
def test_retry_after_overrides_the_remaining_limit(retry_after: float | None, pause: float) -> None:
    scheduler = Scheduler({"llm": AdaptiveLimit()}, FifoPolicy)
    refused = ask(scheduler, 0.0)
    left = RateLimits(0, None, 60.0, None, 10)
    record_throttling(scheduler, Throttled(0.0, refused, 429, ThrottleKind.LOAD, retry_after, left))
    scheduler.cancel(refused, 0.0)
    ask(scheduler, 0.0)
    assert scheduler.compute_next_wakeup() == pytest.approx(pause)


def test_request_refused_for_money_returns_its_tokens() -> None:
    scheduler = core(requests=1, tokens=1000)
    poor = Ticket(Request("a", resources=("llm",), admission=True, tokens=900))
    scheduler.submit(poor, 0.0)
    assert poor.state is State.ADMITTING
    following = ask(scheduler, 0.0, tokens=900)
    assert following.state is WAITING
    scheduler.refuse_admission(poor, Outcome.BUDGET, 0.0)
    assert following.state is GRANTED


def test_self_blocking_holder_shares_no_sooner_than_allowed() -> None:
    scheduler = Scheduler({"llm": AdaptiveLimit(ceiling=1)}, FifoPolicy)
    holder = Ticket(Request("a", resources=("llm",)))
    holder.scopes = ("thread",)
    scheduler.submit(holder, 0.0)
    record_rate_limits(scheduler, holder, RateLimits(0, None, 9.0), 1.0)
    nested = ask(scheduler, 1.0)
    scheduler.park_ticket(nested, ("thread",), 1.0)
    assert (nested.state, scheduler.compute_next_wakeup()) == (WAITING, 10.0)
    scheduler.run_due_actions(10.0)
    assert (nested.state, nested.lender) == (GRANTED, holder)


def test_provider_pause_is_bounded() -> None:
    scheduler = Scheduler({"llm": AdaptiveLimit()}, FifoPolicy)
    refused = ask(scheduler, 0.0)
    record_throttling(scheduler, Throttled(0.0, refused, 429, ThrottleKind.LOAD, 86_400.0, None))
    scheduler.cancel(refused, 0.0)
    ask(scheduler, 0.0)
    assert scheduler.compute_next_wakeup() == 900.0


def test_rejecting_a_large_waiter_grants_no_rejected_one() -> None:
    scheduler = core(tokens=60)
    ask(scheduler, 0.0, 60)
    large, small, other = (ask(scheduler, 0.0, tokens) for tokens in (60, 1, 2))
    assert [ticket.state for ticket in (large, small, other)] == [WAITING] * 3
    assert scheduler.reject_waiting([large, small, small], Outcome.BUDGET, 5.0) == 2
    assert [ticket.state for ticket in (large, small, other)] == [State.REJECTED, State.REJECTED, GRANTED]
    assert scheduler.count_waiting() == 0


def test_removed_rates_leave_no_closed_gate() -> None:
    scheduler = Scheduler({"llm": 2}, FifoPolicy)
    set_resource(scheduler, "llm", 2, 0.0, requests_per_minute=1)
    for _ in range(3):
        scheduler.submit(Ticket(Request("a", resources=("llm",))), 0.0)
    queue_set = scheduler.resources.get_queue_set(("llm",))
    assert queue_set.gate is not None
    set_resource(scheduler, "llm", 1, 0.0)
    assert (queue_set.gate, queue_set.waiting) == (None, 2)
