"""Scopes of leases and waiters, from which the core detects that a waiter blocks a lease, see `_core/deadlock.py`.

A lease is used in the thread and the context that reads its body. Contexts are inherited: a child task and
`asyncio.to_thread` have the claims of their parent. A sync waiter also blocks its whole thread, and with it every task
of the event loop that runs there.

A slot may be entered in a context that is destroyed before the slot is left: a sync dependency of FastAPI and a job of
an executor have contexts of their own. The calls within the slot then have no claim on it and would wait for it. So a
slot whose contexts are all destroyed becomes idle, see `_core/idle_leases.py`.

Threads are identified by `threading.get_ident`, resolved at each call, because gevent replaces it by one that
identifies greenlets. An ident may be reused after its thread has ended; then an unread body of the ended thread counts
as one of the new thread. At worst that shares a slot that would never have been freed.
"""

import asyncio
import threading
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from typing import TypeAlias
from weakref import ref

from loco_otel._core.ticket import Ticket
from loco_otel._waiting import reentrant_loops

TaskScope: TypeAlias = ref[asyncio.Task[object]]
"""The scope of a task, which its children do not share."""


class Claim:
    """The claim of a context on a lease that moved there. Only that context keeps it alive.

    A lease has one claim at a time: that of its reader. When the reader's context is destroyed, the previous ones have
    the claim again: a task that reads each chunk in a child task (`wait_for` creates one on 3.11), or in
    `asyncio.to_thread`.
    """

    __slots__ = ("__weakref__", "scope", "ticket")

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.scope = ClaimScope(self)


class SlotClaim:
    """The claim of the context that a slot was entered in. Only contexts keep it alive, as a token would prolong it.

    Without a finalizer: an interrupt within one would be lost, and this one would run at each end of a slot.
    """

    __slots__ = ("__weakref__", "ticket")

    ticket: Ticket


class ClaimScope:
    """The scope of a claim, for the core."""

    __slots__ = ("_claim", "_task")

    def __init__(self, claim: Claim) -> None:
        self._claim = ref(claim)
        self._task = get_task_scope()

    def is_abandoned(self) -> bool:
        """Return whether the task that made the claim has ended, or no context holds it any more."""
        if self._claim() is None:
            return True
        if self._task is None:
            return False
        task = self._task()
        return task is None or task.done()


FIRST_RECHECK, RECHECK_INTERVAL = 0.1, 1.0
"""Seconds after which a waiter with claims recomputes the scopes that it blocks, as a reader may have ended: the first
time, when a reader counts no longer as reading, and from then on.
"""

Claimant: TypeAlias = Ticket | Claim | SlotClaim
"""A claim; that of the context that made a call is the ticket itself."""

EMPTY_CONTEXT: tuple[Claimant | None, ...] = (None,)
"""The value in a context that never held a claim."""

claims_var: ContextVar[tuple[Claimant | None, ...]] = ContextVar("loco_otel_scope", default=EMPTY_CONTEXT)
"""First the ticket under which the current code runs, or None; then the claims of this context."""


def bind_here(ticket: Ticket) -> None:
    """Set a ticket's scopes to this thread and the ticket's own claim."""
    ticket.scopes = (threading.get_ident(), ticket)


def list_reader_scopes(claim: Hashable) -> tuple[Hashable, ...]:
    """Return the scopes of a call whose body is read here: this thread, the claim's scope, and the task, if any."""
    task = get_task_scope()
    return (threading.get_ident(), claim) if task is None else (threading.get_ident(), claim, task)


def get_task_scope() -> TaskScope | None:
    """Return the scope of the current task; None if there is none."""
    task = asyncio.current_task() if asyncio._get_running_loop() is not None else None
    if task is None:
        return None
    scope = ref(task)
    hash(scope)  # a reference that was never hashed raises once its task is gone
    return scope


def enter_slot(ticket: Ticket) -> Claimant | None:
    """Run the following code of this context under a ticket, with a claim; return the outer ticket for `exit_slot`."""
    before = claims_var.get()
    claim = SlotClaim()
    claim.ticket = ticket
    ticket.claim = ref(claim)
    claims_var.set((ticket, claim) if len(before) == 1 else (ticket, *_iter_live_claims(before), claim))
    return before[0]


def exit_slot(ticket: Ticket, outer: Claimant | None) -> bool:
    """Undo `enter_slot`; claims that were added since stay.

    Return False without a change if another ticket is current: this is another context, in which the garbage collector
    closes a coroutine or a generator, or a body that was entered later is still open.
    """
    now = claims_var.get()
    if now[0] is not ticket:
        return False
    if len(now) == 2 and outer is None:  # noqa: PLR2004 - the ticket and its claim
        claims_var.set(EMPTY_CONTEXT)
    else:
        kept = [hold for hold in _iter_live_claims(now) if not (isinstance(hold, SlotClaim) and hold.ticket is ticket)]
        claims_var.set((outer, *kept))
    return True


def enter_call(ticket: Ticket) -> Claimant | None:
    """Run the following code of this context under a ticket, without a claim; return the outer one for `exit_call`."""
    before = claims_var.get()
    claims_var.set((ticket, *before[1:]))
    return before[0]


def exit_call(ticket: Ticket, outer: Claimant | None) -> bool:
    """Undo `enter_call`; claims that were added since stay. Return False where `exit_slot` does."""
    now = claims_var.get()
    if now[0] is not ticket:
        return False
    claims_var.set(EMPTY_CONTEXT if len(now) == 1 and outer is None else (outer, *_iter_live_claims(now)))
    return True


def current_ticket() -> Ticket | None:
    """Return the live ticket under which the current code runs; calls within it are not scheduled again."""
    ticket = claims_var.get()[0]
    return ticket if isinstance(ticket, Ticket) and not ticket.state.is_ended else None


def add_claim(hold: Claimant) -> None:
    """Add a claim to this context, and to those that inherit it from now on."""
    scope = claims_var.get()
    ticket = _get_ticket(hold)
    claims_var.set((scope[0], *[other for other in _iter_live_claims(scope) if _get_ticket(other) is not ticket], hold))


def list_carried_claims() -> tuple[Claimant | None, ...]:
    """Return the `claims_var` of work that another thread does for this context: its claims, and no ticket."""
    here = claims_var.get()
    return EMPTY_CONTEXT if len(here) == 1 else (None, *_iter_live_claims(here))


def list_scopes_blocked_by_task(counts: Callable[[Ticket], bool] | None = None) -> tuple[Hashable, ...]:
    """Return the scopes that this task blocks while it waits; with `counts`, only of tickets for which it is true."""
    scope = claims_var.get()
    if len(scope) == 1:
        return ()
    blocked = tuple(_iter_blocked_scopes(scope, counts))
    for context in reentrant_loops.list_suspended_contexts():
        blocked += tuple(_iter_blocked_scopes(context.get(claims_var, EMPTY_CONTEXT), counts))
    return blocked


def list_scopes_blocked_by_thread() -> tuple[Hashable, ...]:
    """Return the scopes that this thread blocks while it waits."""
    return (threading.get_ident(), *list_scopes_blocked_by_task())


def _iter_live_claims(scope: tuple[Claimant | None, ...]) -> Iterator[Claimant]:
    for hold in scope[1:]:
        if hold is not None and not _get_ticket(hold).state.is_ended:
            yield hold


def _iter_blocked_scopes(
    scope: tuple[Claimant | None, ...], counts: Callable[[Ticket], bool] | None
) -> Iterator[Hashable]:
    task = get_task_scope()
    for hold in _iter_live_claims(scope):
        ticket = _get_ticket(hold)
        if counts is not None and not counts(ticket):
            continue
        own = hold.scope if isinstance(hold, Claim) else ticket
        yield own
        for place in ticket.scopes:
            is_abandoned = place is not own and isinstance(place, ClaimScope) and place.is_abandoned()
            if is_abandoned or (task is not None and place == task):
                yield place


def _get_ticket(hold: Claimant) -> Ticket:
    return hold if isinstance(hold, Ticket) else hold.ticket
