"""A slot held for the length of a `with` body."""

import threading
from asyncio import _get_running_loop
from types import TracebackType
from typing import Protocol, Self

from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.base import Engine
from loco_otel._waiting import aio, cover, ownership, threads
from loco_otel._waiting.ownership import Claimant
from loco_otel.events import MILLI, Request

# Bound once: on 3.11 each access to an enum's member costs as much as a call.
_GRANTED = State.GRANTED


class SlotGovernor(Protocol):
    """Decides whether slots may be requested."""

    @property
    def is_active(self) -> bool:
        """Whether requests must be checked at all."""

    @property
    def has_stops(self) -> bool:
        """Whether anything is stopped."""

    def submit(self, engine: Engine, ticket: Ticket) -> None:
        """Submit a ticket, or reject it."""

    def recheck_waiter(self, ticket: Ticket) -> None:
        """Reject a waiter that was stopped between its check and its submission."""

    def raise_if_stopped(self, ticket: Ticket) -> None:
        """Check a ticket again when it is granted."""


def submit_governed(governor: SlotGovernor, engine: Engine, ticket: Ticket) -> None:
    """Submit a ticket, unless its agent is stopped: then it is rejected. Fast while nothing is to be checked."""
    if governor.is_active:
        governor.submit(engine, ticket)
    else:
        engine.submit(ticket)
        if governor.has_stops:  # since a moment ago
            governor.recheck_waiter(ticket)


class SlotRuntime(Protocol):
    """The runtime that a slot uses."""

    @property
    def engine(self) -> Engine:
        """The engine that grants slots."""

    @property
    def governor(self) -> SlotGovernor:
        """What refuses slots of stopped agents."""

    def capture_trace(self) -> object:
        """Return the caller's trace context, for listeners."""

    def record_unsupported(self, what: str) -> None:
        """Record that a call runs where it cannot be scheduled."""


class Slot:
    """Holds one slot of a resource, from entering `with` or `async with` to leaving it.

    Patched SDK calls in the body run under this slot and are not scheduled again, one at a time: calls beside another,
    as in `gather`, are scheduled. A slot is reusable, but not reentrant.
    """

    __slots__ = ("__weakref__", "_engine", "_outer", "_request", "_runtime", "_ticket")

    def __init__(self, host: SlotRuntime, request: Request) -> None:
        self._runtime = host
        self._engine = host.engine
        self._request = request
        self._ticket: Ticket | None = None
        self._outer: Claimant | None = None

    @property
    def agent(self) -> str:
        """The agent that holds it."""
        return self._request.agent

    @property
    def weight(self) -> float:
        """Its weight."""
        return self._request.weight / MILLI

    @property
    def waited_ticks(self) -> int:
        """Number of releases that it waited for; 0 outside its body."""
        return 0 if self._ticket is None else self._ticket.waited_ticks

    def touch(self) -> None:
        """Record a sign of life, so that a body longer than `LOCO_MAX_HOLD` keeps its slot."""
        if self._ticket is not None:
            self._engine.touch_lease(self._ticket)

    def __enter__(self) -> Self:
        ticket = self._create_ticket()
        try:
            submit_governed(self._runtime.governor, self._engine, ticket)
            if ticket.state is not _GRANTED:
                threads.wait_until_decided(self._engine, ticket)
            if self._runtime.governor.has_stops:
                self._runtime.governor.raise_if_stopped(ticket)
            self._outer = ownership.enter_slot(ticket)
        except BaseException:
            self._end_ticket()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_ticket(kind is GeneratorExit)

    async def __aenter__(self) -> Self:
        if _get_running_loop() is None:
            self._runtime.record_unsupported(aio.UNSUPPORTED_LOOP)
            return self
        ticket = self._create_ticket()
        try:
            submit_governed(self._runtime.governor, self._engine, ticket)
            if ticket.state is not _GRANTED:
                await aio.wait_until_decided(self._engine, ticket)
            if self._runtime.governor.has_stops:
                self._runtime.governor.raise_if_stopped(ticket)
            self._outer = ownership.enter_slot(ticket)
        except BaseException as error:
            self._end_ticket(isinstance(error, GeneratorExit))
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_ticket(kind is GeneratorExit)

    def __del__(self) -> None:
        # A body that was not exited: an abandoned generator, an ExitStack that was not closed, a KeyboardInterrupt
        # between two bytecodes.
        ticket = self._ticket
        if ticket is not None and ticket.state is not State.NEW and not ticket.state.is_ended:
            self._engine.abandon_ticket(ticket)

    def _create_ticket(self) -> Ticket:
        if self._ticket is not None:
            raise RuntimeError("this slot is held already; make one for each body that runs at the same time")
        engine, request = self._engine, self._request
        if engine.observed:
            request = request._replace(context=self._runtime.capture_trace())
        ticket = self._ticket = engine.create_ticket(request)
        ticket.scopes = (threading.get_ident(), ticket)  # as `ownership.bind_here` does
        return ticket

    def _end_ticket(self, dropped: bool = False) -> None:  # noqa: FBT001, FBT002 - private, on the hot path
        ticket = self._ticket
        if ticket is None:
            return
        if dropped:
            # A generator that is closed, perhaps by the garbage collector inside any other operation.
            self._engine.abandon_ticket(ticket)
        elif ticket.covered_calls is not None and cover.transfer_slot(ticket):
            pass  # a task that was started in the body still has a call under way
        elif ticket.state is _GRANTED:
            self._engine.release(ticket)
        else:
            self._engine.cancel(ticket)
        self._ticket = None
        ownership.exit_slot(ticket, self._outer)
        self._outer = None
