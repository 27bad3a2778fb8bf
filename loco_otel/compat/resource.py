"""Resources of loco-agent's API: a name and a number of slots."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol, Self
from weakref import WeakSet

from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.fixed import create_engine
from loco_otel._engine.in_process import InProcessEngine
from loco_otel._engine.resource_view import ResourceView
from loco_otel._waiting import aio, ownership
from loco_otel._waiting.slot import SlotGovernor, submit_governed
from loco_otel.errors import StoppedError
from loco_otel.events import MILLI, Request

UNBOUNDED = 10**9
"""A bound of waiters that is never reached: bounds are the business of schedulers."""


class Follower(Protocol):
    """An object that follows a resource to another engine."""

    def follow(self) -> None:
        """Bind to the current engine of the resource."""


class SharedResource:
    """A number of slots, of which an agent may hold several. Thread-safe, also across event loops.

    An `AsyncLOCOScheduler` decides which waiter is next; without one the first request is served first.

    Args:
        name: its name in messages and in the event log.
        capacity: the number of slots. It may be changed; a higher one grants at once.

    Raises:
        ValueError: the capacity is below 1.

    """

    governor: SlotGovernor | None = None
    """What refuses the slots of stopped agents; None for a resource of the program's own."""

    def __init__(self, name: str, capacity: int = 1) -> None:
        _validate_capacity(capacity)
        self._init_state(name, name, create_engine({name: capacity}, max_waiters=UNBOUNDED))

    @classmethod
    def over(cls, engine: InProcessEngine, key: str, name: str, governor: SlotGovernor | None = None) -> Self:
        """Return a resource over an existing one of an engine, whose requests a governor may refuse."""
        self = cls.__new__(cls)
        self.governor = governor
        self._init_state(name, key, engine)
        return self

    def _init_state(self, name: str, key: str, engine: InProcessEngine) -> None:
        self.name = name
        self.key = key
        """Its name in the engine."""
        self.engine = engine
        self.view: ResourceView = engine.get_resource(key)
        """Its state in the engine."""
        self._held: dict[str, deque[Ticket]] = {}
        self._waiting: dict[str, list[Ticket]] = {}
        self.schedulers: WeakSet[Follower] = WeakSet()
        """The schedulers that follow it to another engine."""

    def move(self, engine: InProcessEngine) -> None:
        """Move to another engine, whose requests may name several of its resources.

        Raises:
            RuntimeError: a slot is held or waited for.

        """
        if self.engine.list_tickets():
            raise RuntimeError(f"{self.name!r} is in use: add it to the pool before its first request")
        engine.add_resource(self.key, self.capacity)
        self.engine, self.view = engine, engine.get_resource(self.key)
        for scheduler in tuple(self.schedulers):
            scheduler.follow()

    @property
    def capacity(self) -> int:
        """The number of slots; 0 if it is unlimited."""
        return self.view.capacity or 0

    @capacity.setter
    def capacity(self, capacity: int) -> None:
        _validate_capacity(capacity)
        self.view.set_capacity(capacity)

    @property
    def holder_count(self) -> int:
        """The number of slots in use."""
        return self.view.used

    @property
    def waiter_count(self) -> int:
        """The number of waiting requests."""
        return self.view.waiting

    @property
    def available_slots(self) -> int:
        """The number of free slots; 0 if it is unlimited."""
        return max(0, self.capacity - self.holder_count)

    @property
    def utilization(self) -> float:
        """The fraction of slots in use; 0.0 if they are unlimited, and 1.0 if there are none."""
        capacity = self.view.capacity
        if capacity is None:
            return 0.0
        return self.view.used / capacity if capacity else 1.0

    def submit_ticket(self, ticket: Ticket) -> None:
        """Submit a ticket to the engine, or reject it if its agent is stopped."""
        if self.governor is None:
            self.engine.submit(ticket)
        else:
            submit_governed(self.governor, self.engine, ticket)

    def check_grant(self, ticket: Ticket) -> None:
        """Cancel a ticket that was granted while its agent was being stopped.

        Raises:
            StoppedError: it was.

        """
        if self.governor is not None and self.governor.has_stops:
            try:
                self.governor.raise_if_stopped(ticket)
            except StoppedError:
                self.engine.cancel(ticket)
                raise

    def is_holding(self, agent_id: str) -> bool:
        """Return whether an agent holds a slot."""
        return agent_id in self.view.list_holders()

    async def try_acquire(self, agent_id: str) -> bool:
        """Acquire a slot without waiting; return False if none was free, or the agent is stopped."""
        ticket = self._make_ticket(agent_id, 0)
        self.submit_ticket(ticket)
        if ticket.state is not State.GRANTED:
            return False
        self._store_ticket(ticket)
        return True

    async def wait_for_slot(self, agent_id: str) -> None:
        """Acquire a slot, and wait if none is free.

        Raises:
            AcquireRejectedError: `cancel_waiter` was called, or the agent is stopped.

        """
        ticket = self._make_ticket(agent_id, None)
        waiting = self._waiting.setdefault(agent_id, [])
        waiting.append(ticket)
        try:
            self.submit_ticket(ticket)
            if ticket.state is not State.GRANTED:
                await aio.wait_until_decided(self.engine, ticket)
            self.check_grant(ticket)
        finally:
            waiting.remove(ticket)
            if not waiting:
                self._waiting.pop(agent_id, None)
        self._store_ticket(ticket)

    async def grant(self, agent_id: str) -> None:
        """Acquire a free slot for an agent. Waiting requests are granted without this call.

        Raises:
            RuntimeError: no slot is free.

        """
        if not await self.try_acquire(agent_id):
            raise RuntimeError(f"No slot of {self.name!r} is free: {self.holder_count} of {self.capacity} are held")

    async def release(self, agent_id: str) -> None:
        """Release the slot that an agent acquired first; no-op if it holds none."""
        held = self._held.get(agent_id)
        if held:
            ticket = held.popleft()
            if not held:
                self._held.pop(agent_id, None)
            self.engine.release(ticket)

    async def cancel_waiter(self, agent_id: str) -> None:
        """Cancel the latest waiting request of an agent; no-op if none waits."""
        for ticket in self._waiting.get(agent_id, [])[-1:]:
            self.engine.cancel(ticket)

    @asynccontextmanager
    async def held_by(self, agent_id: str) -> AsyncIterator[None]:
        """Hold a slot for the duration of an `async with` body."""
        await self.wait_for_slot(agent_id)
        try:
            yield
        finally:
            await self.release(agent_id)

    def _make_ticket(self, agent_id: str, timeout: float | None) -> Ticket:
        ticket = self.engine.create_ticket(Request(agent_id, MILLI, (self.key,), timeout))
        ownership.bind_here(ticket)
        return ticket

    def _store_ticket(self, ticket: Ticket) -> None:
        self._held.setdefault(ticket.request.agent, deque()).append(ticket)

    def __repr__(self) -> str:
        return f"SharedResource(name={self.name!r}, capacity={self.capacity})"


def _validate_capacity(capacity: int) -> None:
    if not (isinstance(capacity, int) and capacity >= 1):
        raise ValueError(f"Capacity must be >= 1, not {capacity!r}")
