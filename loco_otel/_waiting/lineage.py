"""Who holds what for whom: the marks that let the core see that a waiter blocks a holder, see `_core/pool.py`.

A lease lives in the thread and the context that reads its body. Contexts are inherited: a child task and
`asyncio.to_thread` see the claims of their parent. A sync waiter also blocks its whole thread, and with it every task
of the event loop that runs there.

Threads are told apart by `threading.get_ident`, looked up at each call, because gevent replaces it by one that tells
greenlets apart. An ident may be used again after its thread has ended; then an unread body that a dead thread left
behind counts as one of the new thread's, which at worst shares a slot where the old one would never have been freed.
"""

import threading
from collections.abc import Hashable, Iterator
from contextvars import ContextVar
from typing import TypeAlias

from loco_otel._core.ticket import Ticket


class Claim:
    """One context's hold on a lease that moved there. A lease has one claim at a time: that of its reader."""

    __slots__ = ("ticket",)

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket


Hold: TypeAlias = Ticket | Claim
"""The claim of the context that acquired a lease is the ticket itself."""

Scope: TypeAlias = tuple[tuple[Ticket | Claim | None, ...], tuple[Ticket | Claim | None, ...]]
"""What a context held before and after."""

_scope: ContextVar[tuple[Ticket | Claim | None, ...]] = ContextVar("loco_otel_scope", default=(None,))
"""First the ticket under which the code here runs, or None; then the claims of this context."""


def live_here(ticket: Ticket) -> None:
    """Let a ticket's lease live in this thread, under the ticket's own claim."""
    ticket.places = (threading.get_ident(), ticket)


def enter(ticket: Ticket) -> Scope:
    """Run what follows in this context under a ticket, and hold its claim; return what to give to `leave`."""
    before = _scope.get()
    here = (ticket, ticket) if len(before) == 1 else (ticket, *_good(before), ticket)
    _scope.set(here)
    return before, here


def leave(scope: Scope) -> bool:
    """Take off again what `enter` or `cover` put on; claims that came since stay.

    Return False, and do nothing, where something else is on: this is another context, in which the garbage collector
    closes a coroutine or a generator, or a body that was entered later is still open.
    """
    before, here = scope
    now = _scope.get()
    if now is here:
        _scope.set(before)
    elif now[0] is here[0]:
        _scope.set((before[0], *_good(now)))
    else:
        return False
    return True


def cover(ticket: Ticket) -> Scope:
    """Run what follows in this context under a ticket, without a claim; return what to give to `leave`."""
    before = _scope.get()
    here = (ticket, *before[1:])
    _scope.set(here)
    return before, here


def covering() -> Ticket | None:
    """Return the live ticket under which the code here runs: a call within it is not scheduled again."""
    ticket = _scope.get()[0]
    return ticket if isinstance(ticket, Ticket) and not ticket.state.ended else None


def claim(hold: Hold) -> None:
    """Let this context, and those that inherit it from now on, hold a claim."""
    scope = _scope.get()
    _scope.set((scope[0], *_good(scope), hold))


def claimed(hold: Hold) -> bool:
    """Tell whether this context holds a claim."""
    return hold in _scope.get()[1:]


def blocked_by_task() -> tuple[Hashable, ...]:
    """Name what cannot end while this task waits."""
    return _scope.get()[1:]


def blocked_by_thread() -> tuple[Hashable, ...]:
    """Name what cannot end while this thread waits."""
    return (threading.get_ident(), *_scope.get()[1:])


def _good(scope: tuple[Ticket | Claim | None, ...]) -> Iterator[Hold]:
    for hold in scope[1:]:
        if hold is not None:
            ticket = hold.ticket if isinstance(hold, Claim) else hold
            if not ticket.state.ended and ticket.places[-1] is hold:
                yield hold
