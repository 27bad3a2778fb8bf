"""The shell for asyncio: a waiter awaits, on whichever loop it runs."""

import asyncio

from loco_otel._core.ticket import State, Ticket
from loco_otel._engines.base import Engine
from loco_otel._waiting import lineage
from loco_otel._waiting.rejection import check

ELSEWHERE = "an event loop that is not asyncio's (trio)"
"""What to say where `supported` says no."""


def supported() -> bool:
    """Tell whether the code here runs under asyncio (uvloop included), and not under trio."""
    return asyncio._get_running_loop() is not None


async def decided(engine: Engine, ticket: Ticket) -> None:
    """Return when the ticket is granted. Whatever ends the wait otherwise has cancelled the ticket.

    Raises:
        AcquireRejectedError: it was turned away; the subclass says why.

    """
    try:
        while ticket.state is State.WAITING:
            await _park(engine, ticket)
        engine.admit(ticket)
    except GeneratorExit:
        # The task was dropped: this may be the garbage collector, in the midst of anything.
        engine.abandon(ticket)
        raise
    except BaseException:
        engine.cancel(ticket)
        raise
    finally:
        ticket.wake = None
    check(ticket)


async def _park(engine: Engine, ticket: Ticket) -> None:
    loop = asyncio.get_running_loop()
    gate = loop.create_future()

    def wake() -> None:
        if asyncio._get_running_loop() is loop:
            _open(gate)
            return
        try:
            loop.call_soon_threadsafe(_open, gate)
        except RuntimeError:
            # The loop is closed, so nobody is there to take the slot.
            engine.abandon(ticket)

    blocks = lineage.blocked_by_task()
    engine.park(ticket, wake, blocks)
    if not blocks:
        await gate
        return
    again = loop.call_later(lineage.LOOK_AGAIN, _open, gate)
    try:
        await gate
    finally:
        again.cancel()


def _open(gate: asyncio.Future[None]) -> None:
    if not gate.done():
        gate.set_result(None)
