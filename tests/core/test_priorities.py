"""Classes of urgency and deadlines: the order, the ceilings and the refusals, each in a small case.

`test_scheduler_machine.py` compares the same with a model, in any sequence of operations.
"""

from collections import Counter
from itertools import pairwise

import pytest

from loco_otel._core import idle_leases, resources
from loco_otel._core.adaptive_limit import AdaptiveLimit
from loco_otel._core.fast_paths import try_release_fast, try_submit_fast
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.priority_order import DEFAULT_PRIORITY_RULES, PriorityRule, PriorityRules
from loco_otel._core.reconfiguration import set_policy
from loco_otel._core.recovery import rebuild_state
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import Outcome, Priority, Request

INTERACTIVE, NORMAL, BACKGROUND = Priority
FREE_RULES = {priority: rule._replace(fraction=1.0) for priority, rule in DEFAULT_PRIORITY_RULES.items()}
"""The default shares, without a ceiling."""
STRICT_RULES = {**FREE_RULES, INTERACTIVE: PriorityRule(1000, is_strict=True)}


class Desk:
    """A scheduler of one resource, and what it grants in order."""

    def __init__(self, capacity: int, rules: PriorityRules = FREE_RULES) -> None:
        self.core = Scheduler({"llm": capacity}, FifoPolicy, max_wait_ticks=0, priorities=rules)
        self.granted: list[Ticket] = []

    def ask(
        self,
        priority: Priority = NORMAL,
        *,
        at: float = 0.0,
        deadline: float | None = None,
        agent: str = "a",
        tenant: str | None = None,
    ) -> Ticket:
        ticket = Ticket(Request(agent, 1000, ("llm",), tenant=tenant, priority=priority, deadline=deadline))
        self.core.submit(ticket, at)
        return ticket

    def end(self, ticket: Ticket, at: float = 0.0) -> list[Ticket]:
        """Release a lease, and return what is granted then."""
        self.core.decided = []
        self.core.release(ticket, at)
        granted = [it for it in self.core.decided if it.state is State.GRANTED]
        self.granted += granted
        return granted

    def drain(self, first: Ticket) -> list[Ticket]:
        """Release one lease after the other, of one slot, and return the order of the grants."""
        lease = first
        while granted := self.end(lease):
            (lease,) = granted
        return self.granted


def waits(ticket: Ticket) -> bool:
    return ticket.state is State.WAITING


def test_classes_are_served_by_their_shares() -> None:
    desk = Desk(1)
    first = desk.ask()
    for _ in range(130):
        for priority in Priority:
            desk.ask(priority)
    served = Counter(ticket.request.priority for ticket in desk.drain(first)[:130])
    assert served[INTERACTIVE] == pytest.approx(80, abs=2)
    assert served[NORMAL] == pytest.approx(40, abs=2)
    assert served[BACKGROUND] == pytest.approx(10, abs=2)


def test_background_alone_is_not_delayed_by_its_share() -> None:
    desk = Desk(1)
    first, *others = [desk.ask(BACKGROUND) for _ in range(20)]
    assert desk.drain(first) == others


def test_strict_class_passes_all_others() -> None:
    desk = Desk(1, STRICT_RULES)
    first = desk.ask()
    slow = [desk.ask(priority) for _ in range(5) for priority in (NORMAL, BACKGROUND)]
    urgent = [desk.ask(INTERACTIVE) for _ in range(5)]
    order = desk.drain(first)
    assert order[:5] == urgent
    assert set(order[5:]) == set(slow)


def test_earliest_deadline_is_first_within_its_class_alone() -> None:
    desk = Desk(1, STRICT_RULES)
    first = desk.ask()
    plain, late, early = desk.ask(), desk.ask(deadline=90.0), desk.ask(deadline=50.0)
    urgent = desk.ask(INTERACTIVE)
    assert desk.drain(first) == [urgent, early, late, plain]


def test_ceiling_keeps_room_for_a_burst() -> None:
    desk = Desk(10, DEFAULT_PRIORITY_RULES)
    batch = [desk.ask(BACKGROUND) for _ in range(15)]
    assert [waits(it) for it in batch] == [False] * 9 + [True] * 6
    assert desk.ask(INTERACTIVE).state is State.GRANTED
    assert waits(desk.ask(INTERACTIVE)), "all ten slots are used"
    assert [it.request.priority for it in desk.end(batch[0])] == [INTERACTIVE]
    assert [it.request.priority for it in desk.end(batch[1])] == [BACKGROUND]
    assert desk.end(desk.granted[0])[0].request.priority is BACKGROUND, "9 of 9 again"
    assert not desk.end(desk.ask(INTERACTIVE)), "a slot stays free"


def test_ceiling_of_one_slot_still_grants_one() -> None:
    desk = Desk(1, DEFAULT_PRIORITY_RULES)
    first, second = desk.ask(BACKGROUND), desk.ask(BACKGROUND)
    assert (first.state, waits(second)) == (State.GRANTED, True)
    assert desk.end(first) == [second]


def test_ceiling_yields_where_no_lease_of_the_class_can_end() -> None:
    desk = Desk(4, {**FREE_RULES, BACKGROUND: PriorityRule(1000, slots=1)})
    outer = desk.ask(BACKGROUND)
    outer.scopes = ("thread",)
    inner = desk.ask(BACKGROUND)
    assert waits(inner)
    desk.core.park_ticket(inner, ("thread",), 0.0)
    assert inner.state is State.GRANTED
    assert inner.lender is None, "a slot of its own is free"


def test_deadlock_after_an_exempt_grant_is_resolved() -> None:
    desk = Desk(3, {**FREE_RULES, BACKGROUND: PriorityRule(1000, slots=2)})
    outer, other = desk.ask(BACKGROUND), desk.ask(BACKGROUND)
    outer.scopes, other.scopes = ("thread",), ("elsewhere",)
    inner = [desk.ask(BACKGROUND) for _ in range(2)]
    for waiter in inner:
        waiter.scopes = ("thread",)
        desk.core.park_ticket(waiter, ("thread",), 0.0)
    assert all(map(waits, inner)), "the other lease can end"
    desk.core.set_scopes(other, ("thread",), 0.0)
    assert [it.state for it in inner] == [State.GRANTED] * 2, "the first takes the last free slot, the second shares"


def test_check_of_ceilings_does_not_grow_with_the_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Ticket] = []
    get_idle_at = idle_leases._get_idle_at

    def count_check(lease: Ticket) -> float:
        checked.append(lease)
        return get_idle_at(lease)

    monkeypatch.setattr(idle_leases, "_get_idle_at", count_check)
    desk = Desk(500, DEFAULT_PRIORITY_RULES)
    batch = [desk.ask(BACKGROUND) for _ in range(550)]
    # Of streams that are opened first and not read, each is checked once.
    for ticket in batch[:400]:
        ticket.idle_after = 0.5
    for _ in range(100):
        desk.end(desk.ask(INTERACTIVE), 1.0)
    for ticket in batch[400:450]:
        desk.end(ticket, 1.0)
    assert waits(batch[-1])
    assert len(checked) <= 2 * (100 + 50) + 400


@pytest.mark.parametrize("capacity", [2, 4])
def test_streams_that_nobody_reads_do_not_block_a_capped_class(capacity: int) -> None:
    desk = Desk(capacity, {**FREE_RULES, BACKGROUND: PriorityRule(1000, fraction=0.5)})
    streams = [desk.ask(BACKGROUND) for _ in range(12)]
    for second in range(1, 30):
        for ticket in streams:
            if ticket.state is State.GRANTED:
                ticket.idle_after = 0.5
        desk.core.run_due_actions(float(second))
    assert all(ticket.state is State.GRANTED for ticket in streams)
    assert desk.core.resources.pools["llm"].used <= capacity


def test_past_deadline_is_refused_although_a_slot_is_free() -> None:
    desk = Desk(1)
    late = desk.ask(at=5.0, deadline=5.0)
    assert (late.state, late.outcome) == (State.REJECTED, Outcome.DEADLINE)


def test_wait_ends_at_the_deadline() -> None:
    desk = Desk(1)
    desk.ask()
    waiter = desk.ask(deadline=3.0)
    assert desk.core.compute_next_wakeup() == 3.0
    desk.core.run_due_actions(2.9)
    assert waits(waiter)
    desk.core.run_due_actions(3.0)
    assert (waiter.state, waiter.outcome) == (State.REJECTED, Outcome.DEADLINE)


def test_no_deadline_is_refused_by_an_estimate() -> None:
    desk = Desk(1)
    lease = desk.ask()
    crowd = [desk.ask(deadline=14.0) for _ in range(40)]
    for second in range(1, 11):
        (lease,) = desk.end(lease, float(second))
    # One has been served each second, and 30 precede it; but then all end at once.
    late = desk.ask(at=10.0, deadline=15.0)
    assert waits(late)
    for _ in crowd[10:]:
        (lease,) = desk.end(lease, 12.0)
    assert desk.end(lease, 12.0) == [late]


def test_deadline_within_a_providers_pause_is_refused_at_once() -> None:
    core = Scheduler({"llm": AdaptiveLimit()}, FifoPolicy)
    core.resources.pools["llm"].set_pause(30.0, "retry-after")
    tickets = [Ticket(Request("a", 1000, ("llm",), deadline=deadline)) for deadline in (29.0, 30.0, 30.1)]
    for ticket in tickets:
        core.submit(ticket, 1.0)
    assert [it.outcome for it in tickets] == [Outcome.DEADLINE, Outcome.DEADLINE, None]
    core.run_due_actions(30.0)
    assert tickets[2].state is State.GRANTED


@pytest.mark.parametrize("by_run", [False, True])
def test_deadlines_of_a_tenant_take_no_share_of_another(*, by_run: bool) -> None:
    desk = Desk(1)
    set_policy(desk.core, FifoPolicy, 0, 0.0, by_run=by_run, priorities=FREE_RULES)
    first = desk.ask(tenant="acme")
    plain = [desk.ask(tenant=tenant) for tenant in ("beta", None) for _ in range(10)]
    late, early = ([desk.ask(tenant="acme", deadline=deadline) for _ in range(5)] for deadline in (90.0, 50.0))
    own = desk.ask(tenant="acme")
    order = desk.drain(first)
    served = Counter(ticket.request.tenant for ticket in order[:15])
    assert all(count == 5 for count in served.values()), served
    assert [it for it in order if it.request.tenant == "acme"] == [*early, *late, own]
    assert [it for it in order if it.request.tenant != "acme" and it.request.tenant] == plain[:10]


def test_first_other_class_enables_classes_with_waiters_in_place() -> None:
    desk = Desk(1)
    first = desk.ask()
    waiters = [desk.ask(agent=agent) for agent in "abab"]
    assert desk.core.resources.get_queue_set(("llm",)).order is None
    urgent = desk.ask(INTERACTIVE)
    assert desk.core.resources.get_queue_set(("llm",)).order is not None
    order = desk.drain(first)
    assert urgent in order[:2]
    assert [it for it in order if it is not urgent] == waiters


def test_retry_enables_classes_of_a_recreated_queue_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_MAX_QUEUE_SETS", 3)
    core = Scheduler({}, FifoPolicy, make_unknown_pool=lambda name: SlotPool(name, 1))

    def ask(host: str, priority: Priority = NORMAL) -> Ticket:
        ticket = Ticket(Request("a", 1000, (host,), priority=priority))
        core.submit(ticket, 0.0)
        return ticket

    retried = ask("host", BACKGROUND)
    core.suspend_ticket(retried, 0.0)
    for number in range(3):
        core.release(ask(f"other-{number}"), 0.0)
    assert ("host",) not in core.resources.queue_sets
    holder = ask("host")
    core.resume_ticket(retried, 0.0)
    urgent = ask("host", INTERACTIVE)
    assert waits(retried)
    core.release(holder, 0.0)
    core.release(urgent, 0.0)
    assert retried.state is State.GRANTED
    assert core.resources.pools["host"].capped_slots[BACKGROUND] == 1


def test_waiters_keep_their_place_in_new_rules() -> None:
    desk = Desk(1)
    first = desk.ask()
    slow = [desk.ask(BACKGROUND) for _ in range(3)]
    urgent = [desk.ask(INTERACTIVE) for _ in range(3)]
    set_policy(desk.core, FifoPolicy, 0, 0.0, priorities=STRICT_RULES)
    assert desk.drain(first) == urgent + slow


def test_recovery_restores_classes_and_ceilings() -> None:
    desk = Desk(4, {**FREE_RULES, BACKGROUND: PriorityRule(1000, slots=2)})
    batch = [desk.ask(BACKGROUND) for _ in range(4)]
    rebuild_state(desk.core, 0.0)
    assert [waits(it) for it in batch] == [False, False, True, True]
    assert desk.end(batch[0]) == [batch[2]]
    assert waits(batch[3])


def test_program_without_classes_keeps_the_fast_path() -> None:
    desk = Desk(2, DEFAULT_PRIORITY_RULES)
    ticket = Ticket(Request("a", 1000, ("llm",)))
    assert try_submit_fast(desk.core, ticket, 0.0)
    assert try_release_fast(desk.core, ticket, 0.0)
    for request in (
        Request("a", 1000, ("llm",), priority=BACKGROUND),
        Request("a", 1000, ("llm",), deadline=9.0),
    ):
        assert not try_submit_fast(desk.core, Ticket(request), 0.0)


def test_order_of_deadlines_is_that_of_time() -> None:
    desk = Desk(1)
    first = desk.ask()
    for deadline in (70.0, 30.0, 50.0, 30.0, 90.0):
        desk.ask(deadline=deadline)
    order = desk.drain(first)
    assert all(a.request.deadline <= b.request.deadline for a, b in pairwise(order))  # type: ignore[operator]
