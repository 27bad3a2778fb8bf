"""The shell for threads (and greenlets): a waiter blocks."""

import threading

from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.base import Desk
from loco_otel._waiting import ownership
from loco_otel._waiting.rejection import check


def decided(engine: Desk, ticket: Ticket) -> None:
    """Return when the ticket is granted. Whatever ends the wait otherwise has cancelled the ticket.

    Raises:
        AcquireRejectedError: it was turned away; the subclass says why.

    """
    try:
        while ticket.state is State.WAITING:
            _park(engine, ticket)
        engine.admit(ticket)
    except BaseException:
        engine.cancel(ticket)
        raise
    finally:
        ticket.wake = None
    check(ticket)


def _park(engine: Desk, ticket: Ticket) -> None:
    # Looked up now: in a program that gevent patched this is a lock that lets other greenlets run.
    gate = threading.Lock()
    gate.acquire()

    def wake() -> None:
        try:
            gate.release()
        except RuntimeError:
            return  # open already: a wake is a hint and may come twice

    blocks = ownership.blocked_by_thread()
    engine.park(ticket, wake, blocks)
    gate.acquire(timeout=ownership.LOOK_AGAIN if len(blocks) > 1 else -1)
