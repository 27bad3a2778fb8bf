"""Scopes of leases and waiters, from which the core detects that a waiter blocks a lease, see `_core/deadlock.py`.

A lease is used in the thread and the context that reads its body. Contexts are inherited: a child task and
`asyncio.to_thread` have the claims of their parent. A sync waiter also blocks its whole thread, and with it every task
of the event loop that runs there.

Threads are identified by `threading.get_ident`, resolved at each call, because gevent replaces it by one that
identifies greenlets. An ident may be reused after its thread has ended; then an unread body of the ended thread counts
as one of the new thread. At worst that shares a slot that would never have been freed.
"""

import asyncio
import threading
import weakref
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from typing import TypeAlias

from loco_otel._core.ticket import Ticket


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


class ClaimScope:
    """The scope of a claim, for the core."""

    __slots__ = ("_claim", "_task")

    def __init__(self, claim: Claim) -> None:
        self._claim = weakref.ref(claim)
        task = asyncio.current_task() if asyncio._get_running_loop() is not None else None
        self._task = None if task is None else weakref.ref(task)

    def is_abandoned(self) -> bool:
        """Return whether the task that made the claim has ended, or no context holds it any more."""
        if self._claim() is None:
            return True
        if self._task is None:
            return False
        task = self._task()
        return task is None or task.done()


RECHECK_INTERVAL = 1.0
"""Seconds after which a waiter with claims recomputes the scopes that it blocks, as a reader may have ended."""

Claimant: TypeAlias = Ticket | Claim
"""A claim; that of the context that acquired a lease is the ticket itself."""

ContextToken: TypeAlias = tuple[tuple[Ticket | Claim | None, ...], tuple[Ticket | Claim | None, ...]]
"""The values of `claims_var` before and after a change."""

EMPTY_CONTEXT: tuple[Ticket | Claim | None, ...] = (None,)
"""The value in a context that never held a claim."""

claims_var: ContextVar[tuple[Ticket | Claim | None, ...]] = ContextVar("loco_otel_scope", default=EMPTY_CONTEXT)
"""First the ticket under which the current code runs, or None; then the claims of this context."""


def bind_here(ticket: Ticket) -> None:
    """Set a ticket's scopes to this thread and the ticket's own claim."""
    ticket.scopes = (threading.get_ident(), ticket)


def enter_slot(ticket: Ticket) -> ContextToken:
    """Run the following code of this context under a ticket, with its claim; return the token for `exit_context`."""
    before = claims_var.get()
    here = (ticket, ticket) if len(before) == 1 else (ticket, *_iter_live_claims(before), ticket)
    claims_var.set(here)
    return before, here


def exit_context(scope: ContextToken) -> bool:
    """Undo `enter_slot` or `enter_call`; claims that were added since stay.

    Return False without a change if another ticket is current: this is another context, in which the garbage collector
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
    """Run the following code of this context under a ticket, without a claim; return the token for `exit_context`."""
    before = claims_var.get()
    here = (ticket, *before[1:])
    claims_var.set(here)
    return before, here


def current_ticket() -> Ticket | None:
    """Return the live ticket under which the current code runs; calls within it are not scheduled again."""
    ticket = claims_var.get()[0]
    return ticket if isinstance(ticket, Ticket) and not ticket.state.is_ended else None


def add_claim(hold: Claimant) -> None:
    """Add a claim to this context, and to those that inherit it from now on."""
    scope = claims_var.get()
    ticket = _get_ticket(hold)
    claims_var.set((scope[0], *[other for other in _iter_live_claims(scope) if _get_ticket(other) is not ticket], hold))


def list_scopes_blocked_by_task(counts: Callable[[Ticket], bool] | None = None) -> tuple[Hashable, ...]:
    """Return the scopes that this task blocks while it waits; with `counts`, only of tickets for which it is true."""
    scope = claims_var.get()
    return tuple(_iter_blocked_scopes(scope, counts)) if len(scope) > 1 else ()


def list_scopes_blocked_by_thread() -> tuple[Hashable, ...]:
    """Return the scopes that this thread blocks while it waits."""
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
