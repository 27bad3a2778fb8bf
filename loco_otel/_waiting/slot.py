"""A slot held for the length of a `with` body."""

from asyncio import _get_running_loop
from types import TracebackType
from typing import Protocol, Self

from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.base import Engine
from loco_otel._waiting import aio, ownership, threads
from loco_otel._waiting.ownership import Scope
from loco_otel.events import MILLI, Request

# Bound once: on 3.11 each look at an enum's member costs as much as a call.
_GRANTED = State.GRANTED


class Host(Protocol):
    """What a slot needs of the runtime."""

    @property
    def engine(self) -> Engine:
        """Where to ask."""

    def trace(self) -> object:
        """Capture the caller's context, for listeners."""

    def unsupported(self, what: str) -> None:
        """Say that something runs where nothing can be scheduled."""


class Slot:
    """Holds one slot of a resource, from entering `with` or `async with` to leaving it.

    Patched SDK calls in the body run under this slot and are not scheduled again. It can be used again, but entered
    only once at a time.
    """

    __slots__ = ("__weakref__", "_engine", "_host", "_request", "_scope", "_ticket")

    def __init__(self, host: Host, request: Request) -> None:
        self._host = host
        self._engine = host.engine
        self._request = request
        self._ticket: Ticket | None = None
        self._scope: Scope | None = None

    @property
    def agent(self) -> str:
        """Who holds it."""
        return self._request.agent

    @property
    def weight(self) -> float:
        """What it weighs."""
        return self._request.weight / MILLI

    @property
    def waited_ticks(self) -> int:
        """How many releases it waited for; 0 outside of its body."""
        return 0 if self._ticket is None else self._ticket.waited_ticks

    def touch(self) -> None:
        """Give a sign of life, so that a body longer than `LOCO_MAX_HOLD` keeps its slot."""
        if self._ticket is not None:
            self._engine.touch(self._ticket)

    def __enter__(self) -> Self:
        ticket = self._begin()
        try:
            self._engine.submit(ticket)
            if ticket.state is not _GRANTED:
                threads.decided(self._engine, ticket)
            self._scope = ownership.enter(ticket)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(kind is GeneratorExit)

    async def __aenter__(self) -> Self:
        if _get_running_loop() is None:
            self._host.unsupported(aio.ELSEWHERE)
            return self
        ticket = self._begin()
        try:
            self._engine.submit(ticket)
            if ticket.state is not _GRANTED:
                await aio.decided(self._engine, ticket)
            self._scope = ownership.enter(ticket)
        except BaseException as error:
            self._end(isinstance(error, GeneratorExit))
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(kind is GeneratorExit)

    def __del__(self) -> None:
        # A body that was never left: a dropped generator, an ExitStack that nobody closed, a KeyboardInterrupt
        # between two bytecodes.
        ticket = self._ticket
        if ticket is not None and ticket.state is not State.NEW and not ticket.state.ended:
            self._engine.abandon(ticket)

    def _begin(self) -> Ticket:
        if self._ticket is not None:
            raise RuntimeError("this slot is held already; make one for each body that runs at the same time")
        engine, request = self._engine, self._request
        if engine.observed:
            request = request._replace(context=self._host.trace())
        ticket = self._ticket = engine.ticket(request)
        ownership.live_here(ticket)
        return ticket

    def _end(self, dropped: bool = False) -> None:  # noqa: FBT001, FBT002 - private, on the hot path
        ticket = self._ticket
        if ticket is None:
            return
        if dropped:
            # A generator that is closed, perhaps by the garbage collector in the midst of anything.
            self._engine.abandon(ticket)
        elif ticket.state is _GRANTED:
            self._engine.release(ticket)
        else:
            self._engine.cancel(ticket)
        self._ticket = None
        if self._scope is not None:
            ownership.leave(self._scope)
            self._scope = None
