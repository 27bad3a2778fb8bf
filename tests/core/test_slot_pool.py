"""Sharing: when a holder has to lend its slot, to which waiter, and what becomes of the slot."""

import weakref
from collections.abc import Callable, Hashable
from typing import Any

import pytest

from loco_otel._core.fast_paths import try_release_fast
from loco_otel._core.policies.base import Key, Policy
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.policies.load import LoadPolicy
from loco_otel._core.queue_set import QueueSet
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import DEFAULT_RESOURCE, GrantReason, Outcome, Request, ResourceSnapshot

GRANTED, WAITING = State.GRANTED, State.WAITING


class PickAFirst(FifoPolicy):
    """Starves all other agents."""

    def pick_next(self, tick: int) -> Key:
        return "a" if "a" in self._entries else super().pick_next(tick)


class House:
    """A scheduler of one resource, and callers that live in places."""

    def __init__(self, capacity: int = 1, policy: Callable[[], Policy] = FifoPolicy) -> None:
        self.core = Scheduler({DEFAULT_RESOURCE: capacity}, policy, max_hold=100.0)
        self.core.observed = True

    def ask(self, place: Hashable, *, agent: str = "agent", admission: bool = False, weight: int = 1000) -> Ticket:
        ticket = Ticket(Request(agent, weight, admission=admission))
        ticket.scopes = (place,)
        self.core.submit(ticket, 0.0)
        return ticket

    def ask_within(self, *blocks: Hashable, place: Hashable = None, agent: str = "agent", weight: int = 1000) -> Ticket:
        """Ask from where something is held already; while this waits, nothing in `blocks` can end."""
        ticket = self.ask(place or blocks[0], agent=agent, weight=weight)
        if ticket.state is WAITING:
            self.core.park_ticket(ticket, blocks, 0.0)
        return ticket

    def end(self, *tickets: Ticket) -> None:
        for ticket in tickets:
            self.core.release(ticket, 0.0)

    @property
    def pool(self) -> SlotPool:
        return self.core.resources.pools[DEFAULT_RESOURCE]

    @property
    def queue_set(self) -> QueueSet:
        return self.core.resources.get_queue_set((DEFAULT_RESOURCE,))

    @property
    def standing(self) -> ResourceSnapshot:
        return self.core.start_snapshot(0.0).build_snapshot().resources[0]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Slots taken, leases, waiters."""
        return self.pool.used, self.standing.active, self.standing.waiting

    def is_empty(self) -> bool:
        return (self.counts, self.pool.sharer_count, self.pool.leases) == ((0, 0, 0), 0, {})


def test_nested_call_shares_its_slot() -> None:
    house = House()
    outer = house.ask("a")
    inner = house.ask_within("a")

    assert (inner.state, inner.reason, inner.lender) == (GRANTED, GrantReason.REENTRANT, outer)
    assert house.counts == (1, 2, 0)
    house.end(inner)
    assert house.counts == (1, 1, 0)
    house.end(outer)
    assert house.is_empty()
    assert house.queue_set.tick == 1, "one slot was given back, once"


def test_nested_call_waits_while_one_holder_can_end() -> None:
    house = House(capacity=2)
    house.ask("a")
    other = house.ask("b")
    inner = house.ask_within("a")

    assert inner.state is WAITING
    house.end(other)
    assert (inner.state, inner.reason) == (GRANTED, GrantReason.SCORE)
    assert house.counts == (2, 2, 0)


def test_nested_call_shares_once_the_last_holder_is_blocked() -> None:
    house = House(capacity=2)
    first, second = house.ask("a"), house.ask("b")
    within_first = house.ask_within("a")
    assert within_first.state is WAITING
    within_second = house.ask_within("b")

    assert (within_first.state, within_first.lender) == (GRANTED, first)
    assert within_second.state is WAITING, "one at a time: the first can end now"
    house.end(within_first)
    # Both held slots: what blocks the second only is admitted when the first is blocked again, or has ended.
    assert within_second.state is WAITING
    house.end(first)
    assert (within_second.state, within_second.reason) == (GRANTED, GrantReason.SCORE)
    house.end(second, within_second)
    assert house.is_empty()


def test_waiter_that_blocks_no_holder_never_shares() -> None:
    house = House()
    outer = house.ask("a")
    stranger = house.ask("z")
    elsewhere = house.ask_within("b", place="b")
    inner = house.ask_within("a")

    assert (inner.state, stranger.state, elsewhere.state) == (GRANTED, WAITING, WAITING)
    house.end(inner, outer)
    assert stranger.state is GRANTED


def test_waiter_that_cannot_proceed_is_skipped() -> None:
    """A task of a loop whose thread another waiter blocks: the grant would reach nobody, however old it is."""
    house = House(capacity=2)
    house.ask("loop")
    house.ask("x")
    behind = house.ask_within("x", place="loop")
    asleep = house.ask_within("loop", place="thread")

    assert (asleep.state, behind.state) == (GRANTED, WAITING)


def test_position_blocked_only_by_the_waiter_is_ignored() -> None:
    house = House()
    outer = house.ask("loop")
    inner = house.ask_within("loop", "claim", place="loop")

    assert (inner.state, inner.lender) == (GRANTED, outer)


def test_best_placed_of_several_shares() -> None:
    house = House(policy=lambda: LoadPolicy(1.0, lambda: 0.5))
    host = house.ask("a")
    house.core.set_capacity(DEFAULT_RESOURCE, 2, 0.0)
    free = house.ask("b")
    light = house.ask_within("a", place="c", agent="light")
    heavy = house.ask_within("a", place="d", agent="heavy", weight=5000)
    assert (light.state, heavy.state) == (WAITING, WAITING)

    house.core.set_scopes(free, ("a",), 0.0)
    assert (heavy.state, heavy.lender) == (GRANTED, host)
    assert light.state is WAITING


def test_older_of_equals_shares() -> None:
    house = House(capacity=2)
    house.ask("a")
    free = house.ask("b")
    first = house.ask_within("a", place="c", agent="zoe")
    second = house.ask_within("a", place="d", agent="ada")

    house.core.set_scopes(free, ("a",), 0.0)
    assert (first.state, second.state) == (GRANTED, WAITING)


def test_sharer_keeps_the_slot_when_its_holder_ends_first() -> None:
    house = House()
    outer = house.ask("a")
    inner = house.ask_within("a")
    waiting = house.ask("z")

    house.end(outer)
    assert (inner.lender, waiting.state) == (None, WAITING), "the slot passed on, it did not come free"
    assert house.counts == (1, 1, 1)
    assert house.queue_set.tick == 0
    house.end(inner)
    assert waiting.state is GRANTED
    house.end(waiting)
    assert house.is_empty()


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_slot_nested_three_deep_is_freed_once(order: tuple[int, ...]) -> None:
    house = House()
    outer = house.ask("a")
    middle = house.ask_within("a", place="b")
    inner = house.ask_within("a", "b", place="c")
    leases = (outer, middle, inner)
    waiting = house.ask("z")

    assert [lease.state for lease in leases] == [GRANTED] * 3
    assert (middle.lender, inner.lender) == (outer, outer), "the host is whoever has the slot"
    assert (house.counts, house.pool.sharer_count) == ((1, 3, 1), 2)
    for left, index in zip((2, 1, 0), order, strict=True):
        assert waiting.state is WAITING
        house.end(leases[index])
        rest = [lease for lease in leases if lease.state is GRANTED]
        owners = [lease for lease in rest if lease.lender is None]
        assert len(rest) == left
        assert len(owners) == min(left, 1)
        assert all(lease.lender in owners for lease in rest if lease not in owners)
    assert waiting.state is GRANTED
    house.end(waiting)
    assert house.is_empty()
    assert house.queue_set.tick == 2


def test_paused_sharer_frees_nothing_and_waits_afterwards() -> None:
    house = House()
    outer = house.ask("a")
    inner = house.ask_within("a")
    waiting = house.ask("z")

    house.core.suspend_ticket(inner, 0.0)
    assert (house.counts, waiting.state) == ((1, 1, 1), WAITING)
    house.core.resume_ticket(inner, 0.0)
    assert (inner.state, inner.lender) == (WAITING, None)
    house.end(outer)
    assert (inner.state, inner.reason, waiting.state) == (GRANTED, GrantReason.SCORE, WAITING), "it came first"
    house.end(inner)
    house.end(waiting)
    assert house.is_empty()


def test_paused_host_leaves_its_slot_to_the_sharer() -> None:
    house = House()
    outer = house.ask("a")
    inner = house.ask_within("a")

    house.core.suspend_ticket(outer, 0.0)
    assert (inner.lender, house.counts) == (None, (1, 1, 0))
    house.core.resume_ticket(outer, 0.0)
    assert outer.state is WAITING
    house.end(inner)
    assert outer.state is GRANTED
    house.end(outer)
    assert house.is_empty()


def test_reclaimed_host_leaves_its_slot_to_the_sharer() -> None:
    house = House()
    outer = house.ask("a")
    inner = house.ask_within("a")
    inner.touched_at = 50.0

    house.core.run_due_actions(100.0)
    assert (outer.state, inner.state, inner.lender) == (State.RELEASED, GRANTED, None)
    assert house.counts == (1, 1, 0)


def test_refused_sharer_leaves_the_slot_to_its_host() -> None:
    house = House()
    outer = house.ask("a")
    inner = house.ask("a", admission=True)
    house.core.park_ticket(inner, ("a",), 0.0)
    assert inner.state is State.ADMITTING

    house.core.refuse_admission(inner, Outcome.BUDGET, 0.0)
    assert (inner.state, house.counts) == (State.REJECTED, (1, 1, 0))
    house.end(outer)
    assert house.is_empty()


def test_freed_slot_goes_to_the_queue_and_is_not_shared() -> None:
    house = House(capacity=2)
    first = house.ask("a")
    second = house.ask("b")
    waiting = house.ask("z")
    inner = house.ask_within("a")

    house.end(second)
    assert (waiting.state, inner.state) == (GRANTED, WAITING)
    house.end(waiting)
    assert (inner.state, inner.lender) == (GRANTED, None)
    house.end(first, inner)
    assert house.is_empty()


def test_waiter_that_gives_up_blocks_nothing() -> None:
    house = House(capacity=2)
    house.ask("a")
    house.ask("b")
    gone = house.ask_within("a")
    house.core.cancel(gone, 0.0)
    within_second = house.ask_within("b")

    assert within_second.state is WAITING, "the first can end again"


def test_waiter_that_parks_again_blocks_only_its_new_holders() -> None:
    house = House(capacity=2)
    house.ask("a")
    house.ask("b")
    moved = house.ask_within("a")
    house.core.park_ticket(moved, ("elsewhere",), 0.0)
    house.ask_within("b")
    assert moved.state is WAITING

    house.core.park_ticket(moved, ("a", "b"), 0.0)
    assert (moved.state, moved.reason) == (GRANTED, GrantReason.REENTRANT)


def test_moved_lease_is_no_longer_blocked_at_its_old_place() -> None:
    house = House()
    outer = house.ask("a")
    house.core.set_scopes(outer, ("b",), 0.0)
    stays = house.ask_within("a")
    assert stays.state is WAITING

    follows = house.ask_within("b")
    assert (follows.state, follows.lender) == (GRANTED, outer)


def test_leases_above_a_lowered_capacity_share() -> None:
    house = House(capacity=3)
    leases = [house.ask(place) for place in "abc"]
    house.core.set_capacity(DEFAULT_RESOURCE, 1, 0.0)
    inner = house.ask_within("a", "b", "c")

    assert (inner.state, inner.lender) == (GRANTED, leases[0])
    assert house.counts == (3, 4, 0)
    house.end(*leases, inner)
    assert house.is_empty()


def test_fairness_is_absent_where_no_request_waits() -> None:
    house = House(capacity=10)
    for agent, weight in [("bulk", 8000)] * 100 + [("light", 1000)] * 5:
        house.end(house.ask("x", agent=agent, weight=weight))
    assert house.standing.fairness is None


def test_fairness_counts_waiters_without_service() -> None:
    house = House(policy=PickAFirst)
    holder = house.ask("x", agent="a", weight=2000)
    for agent in "aabbccaaaaaaa":
        house.ask("x", agent=agent, weight=2000)
    for _ in range(6):
        house.end(holder)
        (holder,) = house.pool.leases.values()
    assert holder.request.agent == "a", "all six were"
    assert house.standing.fairness == pytest.approx(1 / 3)


def test_fairness_ignores_agents_that_did_not_wait_throughout() -> None:
    house = House()
    holder = house.ask("x", agent="c")
    for agent in "abababab":
        house.ask("x", agent=agent)
    for _ in range(5):
        house.end(holder)
        (holder,) = house.pool.leases.values()
    before = house.standing.fairness
    house.ask("x", agent="late", weight=9000)
    assert before is not None
    assert house.standing.fairness == before == pytest.approx(1.0)


def test_fairness_is_absent_before_each_had_its_turn() -> None:
    house = House()
    holder = house.ask("x", agent="c")
    for agent in "abababab":
        house.ask("x", agent=agent)
    for _ in range(3):
        assert house.standing.fairness is None
        house.end(holder)
        (holder,) = house.pool.leases.values()


def test_served_requests_are_not_kept_alive() -> None:
    class Context:
        """What the program's spans hang on."""

    scheduler = Scheduler({"llm": None}, FifoPolicy)
    kept = []
    for observed in (False, True):
        context: Any = Context()
        kept.append(weakref.ref(context))
        scheduler.observed = observed
        ticket = Ticket(Request("a", resources=("llm",), context=context))
        scheduler.submit(ticket, 0.0)
        if not try_release_fast(scheduler, ticket, 1.0):
            scheduler.release(ticket, 1.0)
        scheduler.events = []
        del ticket, context
    assert [reference() for reference in kept] == [None, None]
    assert len(scheduler.resources.pools["llm"].recently_served) == 2
