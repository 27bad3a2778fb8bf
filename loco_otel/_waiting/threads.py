"""Waiting in threads and greenlets: the caller blocks."""

import threading

from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.base import SlotSource
from loco_otel._waiting import ownership
from loco_otel._waiting.rejection import raise_if_rejected

# Bound once: on 3.11 each access to an enum's member costs as much as a call.
_GRANTED = State.GRANTED
_WAITING = State.WAITING


def wait_until_decided(engine: SlotSource, ticket: Ticket) -> None:
    """Return when a ticket is granted. Anything else that ends the wait cancels the ticket.

    Raises:
        AcquireRejectedError: it was rejected; the subclass depends on the reason.

    """
    try:
        recheck = ownership.FIRST_RECHECK
        while ticket.state is _WAITING:
            _park_thread(engine, ticket, recheck)
            recheck = ownership.RECHECK_INTERVAL
        if ticket.state is not _GRANTED:
            engine.admit_ticket(ticket)
    except BaseException:
        engine.cancel(ticket)
        raise
    finally:
        ticket.wake = None
    if ticket.state is not _GRANTED:
        raise_if_rejected(ticket)


def _park_thread(engine: SlotSource, ticket: Ticket, recheck: float) -> None:
    # Resolved at each call: after a patch by gevent this is a lock that lets other greenlets run.
    gate = threading.Lock()
    gate.acquire()

    def wake() -> None:
        try:
            gate.release()
        except RuntimeError:
            return  # released already: a wake is a hint and may occur twice

    blocks = ownership.list_scopes_blocked_by_thread()
    engine.park_ticket(ticket, wake, blocks)
    gate.acquire(timeout=recheck if len(blocks) > 1 else -1)
