"""Who holds what for whom: the marks that let the core see that a waiter blocks a holder, see `_core/deadlock.py`.

A lease lives in the thread and the context that reads its body. Contexts are inherited: a child task and
`asyncio.to_thread` see the claims of their parent. A sync waiter also blocks its whole thread, and with it every task
of the event loop that runs there.

Threads are told apart by `threading.get_ident`, looked up at each call, because gevent replaces it by one that tells
greenlets apart. An ident may be used again after its thread has ended; then an unread body that a dead thread left
behind counts as one of the new thread's, which at worst shares a slot where the old one would never have been freed.
"""

import asyncio
import threading
import weakref
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from typing import TypeAlias

from loco_otel._core.ticket import Ticket


class Claim:
    """One context's hold on a lease that moved there, and kept alive by that context alone.

    A lease has one claim at a time: that of its reader. When its reader is gone, those before have it again: a task
    that reads each chunk in a child task (`wait_for` makes one on 3.11), or in `asyncio.to_thread`.
    """

    __slots__ = ("__weakref__", "scope", "ticket")

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.scope = ClaimScope(self)


class ClaimScope:
    """A claim as the core knows it."""

    __slots__ = ("_claim", "_task")

    def __init__(self, claim: Claim) -> None:
        self._claim = weakref.ref(claim)
        task = asyncio.current_task() if asyncio._get_running_loop() is not None else None
        self._task = None if task is None else weakref.ref(task)

    def is_abandoned(self) -> bool:
        """Tell whether the task that made the claim, or every context that held it, is gone."""
        if self._claim() is None:
            return True
        if self._task is None:
            return False
        task = self._task()
        return task is None or task.done()


RECHECK_INTERVAL = 1.0
"""Seconds after which a waiter that holds claims says anew what it blocks: a reader may be gone by then."""

Claimant: TypeAlias = Ticket | Claim
"""The claim of the context that acquired a lease is the ticket itself."""

ContextToken: TypeAlias = tuple[tuple[Ticket | Claim | None, ...], tuple[Ticket | Claim | None, ...]]
"""What a context held before and after."""

EMPTY_CONTEXT: tuple[Ticket | Claim | None, ...] = (None,)
"""What a context holds that has never held anything."""

claims_var: ContextVar[tuple[Ticket | Claim | None, ...]] = ContextVar("loco_otel_scope", default=EMPTY_CONTEXT)
"""First the ticket under which the code here runs, or None; then the claims of this context."""


def bind_here(ticket: Ticket) -> None:
    """Let a ticket's lease live in this thread, under the ticket's own claim."""
    ticket.scopes = (threading.get_ident(), ticket)


def enter_slot(ticket: Ticket) -> ContextToken:
    """Run what follows in this context under a ticket, and hold its claim; return what to give to `leave`."""
    before = claims_var.get()
    here = (ticket, ticket) if len(before) == 1 else (ticket, *_iter_live_claims(before), ticket)
    claims_var.set(here)
    return before, here


def exit_context(scope: ContextToken) -> bool:
    """Take off again what `enter` or `cover` put on; claims that came since stay.

    Return False, and do nothing, where something else is on: this is another context, in which the garbage collector
    closes a coroutine or a generator, or a body that was entered later is still open.
    """
    before, here = scope
    now = claims_var.get()
    if now is here:
        claims_var.set(before)
    elif now[0] is here[0]:
        claims_var.set((before[0], *_iter_live_claims(now)))
    else:
        return False
    return True


def enter_call(ticket: Ticket) -> ContextToken:
    """Run what follows in this context under a ticket, without a claim; return what to give to `leave`."""
    before = claims_var.get()
    here = (ticket, *before[1:])
    claims_var.set(here)
    return before, here


def current_ticket() -> Ticket | None:
    """Return the live ticket under which the code here runs: a call within it is not scheduled again."""
    ticket = claims_var.get()[0]
    return ticket if isinstance(ticket, Ticket) and not ticket.state.is_ended else None


def add_claim(hold: Claimant) -> None:
    """Let this context, and those that inherit it from now on, hold a claim."""
    scope = claims_var.get()
    ticket = _get_ticket(hold)
    claims_var.set((scope[0], *[other for other in _iter_live_claims(scope) if _get_ticket(other) is not ticket], hold))


def list_scopes_blocked_by_task(counts: Callable[[Ticket], bool] | None = None) -> tuple[Hashable, ...]:
    """Name what cannot end while this task waits; with `counts`, of those tickets alone for which it is true."""
    scope = claims_var.get()
    return tuple(_iter_blocked_scopes(scope, counts)) if len(scope) > 1 else ()


def list_scopes_blocked_by_thread() -> tuple[Hashable, ...]:
    """Name what cannot end while this thread waits."""
    return (threading.get_ident(), *list_scopes_blocked_by_task())


def _iter_live_claims(scope: tuple[Ticket | Claim | None, ...]) -> Iterator[Claimant]:
    for hold in scope[1:]:
        if hold is not None and not _get_ticket(hold).state.is_ended:
            yield hold


def _iter_blocked_scopes(
    scope: tuple[Ticket | Claim | None, ...], counts: Callable[[Ticket], bool] | None
) -> Iterator[Hashable]:
    for hold in _iter_live_claims(scope):
        if counts is not None and not counts(_get_ticket(hold)):
            continue
        own = hold.scope if isinstance(hold, Claim) else hold
        yield own
        for place in _get_ticket(hold).scopes:
            if place is not own and isinstance(place, ClaimScope) and place.is_abandoned():
                yield place


def _get_ticket(hold: Claimant) -> Ticket:
    return hold.ticket if isinstance(hold, Claim) else hold
