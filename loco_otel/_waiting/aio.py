"""Waiting in asyncio: the caller awaits on its running event loop."""

import asyncio
from collections.abc import Callable, Hashable
from typing import TypeAlias

from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.base import SlotSource
from loco_otel._waiting import ownership
from loco_otel._waiting.rejection import raise_if_rejected

BlockedScopesFinder: TypeAlias = Callable[[], tuple[Hashable, ...]]

UNSUPPORTED_LOOP = "an event loop that is not asyncio's (trio)"
"""What is reported as unsupported if `is_supported` returns False."""


def is_supported() -> bool:
    """Return whether the caller runs under asyncio (including uvloop), and not under trio."""
    return asyncio._get_running_loop() is not None


async def wait_until_decided(
    engine: SlotSource, ticket: Ticket, *, find_blocked: BlockedScopesFinder = ownership.list_scopes_blocked_by_task
) -> None:
    """Return when a ticket is granted. Anything else that ends the wait cancels the ticket.

    Args:
        engine: to which it was submitted.
        ticket: the submitted ticket.
        find_blocked: returns the scopes that this task blocks while it waits.

    Raises:
        AcquireRejectedError: it was rejected; the subclass depends on the reason.

    """
    try:
        recheck = ownership.FIRST_RECHECK
        while ticket.state is State.WAITING:
            # Here and not in a coroutine of its own: a waiter then takes less memory.
            loop = asyncio.get_running_loop()
            gate = loop.create_future()
            blocks = find_blocked()
            engine.park_ticket(ticket, _Waker(gate, engine, ticket), blocks)
            again = loop.call_later(recheck, _open_gate, gate) if blocks else None
            try:
                await gate
            finally:
                if again is not None:
                    again.cancel()
            recheck = ownership.RECHECK_INTERVAL
        if ticket.run_admission is None or ticket.state is not State.ADMITTING:
            engine.admit_ticket(ticket)
        else:
            # If this task is cancelled meanwhile, the check finds the call cancelled and gives back what it reserved.
            await asyncio.wrap_future(ticket.run_admission(engine.admit_ticket, ticket))
    except GeneratorExit:
        # The task was destroyed, perhaps by the garbage collector inside any other operation.
        engine.abandon_ticket(ticket)
        raise
    except BaseException:
        engine.cancel(ticket)
        raise
    finally:
        ticket.wake = None
    raise_if_rejected(ticket)


class _Waker:
    """Wakes the task that waits for a ticket. One per waiter, so it is no closure or `partial`: those take 0.2 kB."""

    __slots__ = ("_engine", "_gate", "_ticket")

    def __init__(self, gate: asyncio.Future[None], engine: SlotSource, ticket: Ticket) -> None:
        self._gate = gate
        self._engine = engine
        self._ticket = ticket

    def __call__(self) -> None:
        gate = self._gate
        loop = gate.get_loop()
        if asyncio._get_running_loop() is loop:
            _open_gate(gate)
            return
        try:
            loop.call_soon_threadsafe(_open_gate, gate)
        except RuntimeError:
            # The loop is closed, so no task can use the slot.
            self._engine.abandon_ticket(self._ticket)


def _open_gate(gate: asyncio.Future[None]) -> None:
    if not gate.done():
        gate.set_result(None)
