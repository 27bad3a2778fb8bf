"""The limit that is found out: its rule, and its course with a provider that allows a number at a time."""

import heapq
import random
from collections.abc import Callable
from itertools import count
from math import inf
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loco_otel._core.adaptive_limit import AdaptiveLimit
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.provider_pause import record_throttling
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import Request, Throttled, ThrottleKind

HOST = "openai/api.openai.com"


def test_no_limit_without_a_refusal() -> None:
    limit = AdaptiveLimit()
    assert not any(limit.record_success(10_000, 0.0) for _ in range(1000))
    assert (limit.limit, limit.is_learnt) == (inf, False)


@pytest.mark.parametrize(("in_flight", "half"), [(1, 1), (2, 1), (9, 4), (100, 50)])
def test_first_refusal_sets_half_of_the_calls_in_flight(in_flight: int, half: int) -> None:
    limit = AdaptiveLimit()
    assert limit.record_refusal(in_flight, 0.0, 1.0)
    assert (limit.limit, limit.is_learnt) == (half, True)


def test_refusals_of_one_flight_halve_it_once() -> None:
    limit = AdaptiveLimit()
    assert limit.record_refusal(40, 0.0, 1.0)
    assert not any(limit.record_refusal(40 - left, 0.5, 1.0 + left / 100) for left in range(1, 20))
    assert limit.limit == 20
    assert limit.record_refusal(20, 1.5, 2.0)
    assert limit.limit == 10


def test_limit_recovers_to_one_below_the_refusal_then_pauses() -> None:
    limit = AdaptiveLimit()
    limit.record_refusal(16, 0.0, 1.0)
    climb = [limit.record_success(int(limit.limit), 9.0) for _ in range(7)]
    assert (climb, limit.limit) == ([True] * 7, 15)
    held = next(tries for tries in count(1) if limit.record_success(15, 9.0))
    assert (held, limit.limit) == (16, 16), "a limit's worth of successes"
    limit.record_refusal(16, 2.0, 3.0)
    while limit.limit < 15:
        limit.record_success(int(limit.limit), 9.0)
    assert next(tries for tries in count(1) if limit.record_success(15, 9.0)) == 32, "twice as many"


def test_refused_probe_with_a_pause_is_not_repeated_soon() -> None:
    limit = AdaptiveLimit()
    limit.record_refusal(2, 0.0, 1.0)
    assert [limit.record_success(1, 1.0), limit.record_success(1, 1.0), limit.limit] == [False, True, 2]
    limit.record_refusal(2, 1.5, 2.0, pause=5.0)
    assert not any(limit.record_success(1, now) for now in range(7, 102))
    assert limit.record_success(1, 102.0)


def test_successful_probe_is_followed_by_more() -> None:
    limit = AdaptiveLimit()
    limit.record_refusal(4, 0.0, 1.0)
    levels = [limit.limit for _ in range(200) if limit.record_success(int(limit.limit), 9.0)]
    assert levels[-1] >= 18, "one more for each limit's worth of successes"
    assert levels == sorted(levels)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 300)), max_size=200), st.sampled_from([inf, 1, 7]))
def test_limit_stays_in_bounds_and_grows_only_when_binding(told: list[tuple[bool, int]], ceiling: float) -> None:
    limit = AdaptiveLimit(ceiling)
    for now, (refused, in_flight) in enumerate(told):
        before = limit.limit
        if refused:
            assert limit.record_refusal(in_flight, now, now)
            assert limit.limit <= max(1, min(before, in_flight) / 2)
        else:
            grew = limit.record_success(in_flight, now)
            assert limit.limit == before + grew
            assert not grew or in_flight >= before
        assert 1 <= limit.limit <= ceiling


class Phase(NamedTuple):
    """What a provider did from a time on: how many it allowed, and what came of it after it had settled down."""

    allowed: int
    served: int
    refused: int
    seconds: float

    @property
    def throughput(self) -> float:
        """As a share of the best that a fixed limit could do."""
        return self.served / (self.allowed * self.seconds)

    @property
    def refusals(self) -> float:
        return self.refused / (self.served + self.refused)


def play(steps: list[tuple[float, int]], seed: int, *, clients: int = 64, retry_after: float | None = None) -> Phase:
    """Let clients ask a provider without end, whose calls take a second in the mean and whose refusals a twentieth.

    Returns the last phase, less the first minute of it.
    """
    rng = random.Random(seed)
    core = Scheduler({HOST: AdaptiveLimit()}, FifoPolicy, max_wait_ticks=0)
    began, allowed = steps[-1]
    ends = began + 300.0
    events: list[tuple[float, int, Ticket, bool]] = []
    order = count()
    busy = served = refused = 0

    def at(now: float) -> int:
        return next(many for since, many in reversed(steps) if since <= now)

    def arrive(now: float, send: Callable[[Ticket, float], None]) -> None:
        ticket = Ticket(Request("a", resources=(HOST,)))
        core.submit(ticket, now)
        if ticket.state is State.GRANTED:
            send(ticket, now)

    def send(ticket: Ticket, now: float) -> None:
        nonlocal busy
        accepted = busy < at(now)
        busy += accepted
        takes = rng.expovariate(1.0) if accepted else 0.05
        heapq.heappush(events, (now + takes, next(order), ticket, accepted))

    for _ in range(clients):
        arrive(0.0, send)
    now = 0.0
    while now < ends:
        if events and events[0][0] <= core.compute_next_wakeup():
            now, _, ticket, accepted = heapq.heappop(events)
            busy -= accepted
            if accepted:
                core.release(ticket, now)
            else:
                record_throttling(core, Throttled(now, ticket, 429, ThrottleKind.LOAD, retry_after, None))
                core.cancel(ticket, now)
            if now >= began + 60:
                served, refused = served + accepted, refused + (not accepted)
            arrive(now, send)
        else:
            now = core.compute_next_wakeup()
            core.run_due_actions(now)
        decided, core.decided = core.decided, []
        for ticket in decided:
            if ticket.state is State.GRANTED:
                send(ticket, now)
    return Phase(allowed, served, refused, ends - began - 60)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    "steps",
    [[(0, 1)], [(0, 3)], [(0, 8)], [(0, 48)], [(0, 16), (120, 4)], [(0, 4), (120, 16)]],
    ids=lambda steps: "-".join(str(allowed) for _, allowed in steps),
)
@pytest.mark.parametrize("retry_after", [None, 0.5, 5.0])
def test_constant_provider_is_used_well_with_few_refusals(
    steps: list[tuple[float, int]], seed: int, retry_after: float | None
) -> None:
    phase = play(steps, seed, retry_after=retry_after)
    assert phase.throughput >= 0.85
    assert phase.refusals <= 0.02


def test_refusal_of_many_at_once_counts_once() -> None:
    """Sixty-four come at once where four are allowed: from the second round trip on hardly any is refused."""
    core = Scheduler({HOST: AdaptiveLimit()}, FifoPolicy, max_wait_ticks=0)
    first = [Ticket(Request("a", resources=(HOST,))) for _ in range(64)]
    for ticket in first:
        core.submit(ticket, 0.0)
    assert all(ticket.state is State.GRANTED for ticket in first)
    for ticket in first[4:]:
        record_throttling(core, Throttled(0.1, ticket, 429, ThrottleKind.LOAD, 2.0, None))
        core.suspend_ticket(ticket, 0.1)
    assert core.resources.pools[HOST].capacity == 32
    for ticket in first[4:]:
        core.resume_ticket(ticket, 0.2)
    assert core.resources.pools[HOST].used == 4, "nobody goes before the time that the provider named"
    assert core.compute_next_wakeup() == pytest.approx(2.1)
    core.run_due_actions(2.1)
    assert core.resources.pools[HOST].used == 32


def test_refusal_for_money_lowers_nothing() -> None:
    core = Scheduler({HOST: AdaptiveLimit()}, FifoPolicy)
    ticket = Ticket(Request("a", resources=(HOST,)))
    core.submit(ticket, 0.0)
    record_throttling(core, Throttled(0.1, ticket, 429, ThrottleKind.SPEND, 60.0, None))
    assert core.resources.pools[HOST].capacity == inf
    following = Ticket(Request("a", resources=(HOST,)))
    core.submit(following, 0.2)
    assert following.state is State.GRANTED
