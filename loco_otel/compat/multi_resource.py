"""Several resources, of which a body holds a slot of each that it names, or none.

They share one engine, which grants all slots in one step.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from loco_otel._core.ticket import State
from loco_otel._engine.fixed import create_engine
from loco_otel._waiting import aio, ownership
from loco_otel.compat.resource import UNBOUNDED, SharedResource
from loco_otel.events import MILLI, Request


class ResourcePool:
    """Resources by name, whose slots are acquired together."""

    def __init__(self) -> None:
        self._resources: dict[str, SharedResource] = {}
        self._engine = create_engine({}, max_waiters=UNBOUNDED)

    def add(self, resource: SharedResource) -> None:
        """Add a resource.

        Raises:
            ValueError: a resource has this name.
            RuntimeError: a slot of it is held or waited for.

        """
        if resource.name in self._resources:
            raise ValueError(f"Resource already in pool: {resource.name}")
        resource.move(self._engine)
        self._resources[resource.name] = resource

    def get(self, name: str) -> SharedResource:
        """Return a resource.

        Raises:
            ValueError: no resource has this name.

        """
        try:
            return self._resources[name]
        except KeyError:
            raise ValueError(f"Unknown resource: {name}") from None

    @property
    def primary(self) -> SharedResource:
        """The resource with the first name in sorted order.

        Raises:
            RuntimeError: the pool is empty.

        """
        if not self._resources:
            raise RuntimeError("No resources in pool")
        return self._resources[min(self._resources)]

    @property
    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._resources)

    def utilization(self) -> dict[str, float]:
        """Return the fraction of slots in use, by resource."""
        return {name: self._resources[name].utilization for name in self.names}

    @asynccontextmanager
    async def acquire_multiple(
        self,
        agent_id: str,
        resource_names: Iterable[str],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as for one resource
    ) -> AsyncIterator[None]:
        """Hold a slot of each resource for the duration of an `async with` body.

        All slots are granted in one step. No request holds one while it waits for another, so there is no deadlock.

        Args:
            agent_id: the requesting agent.
            resource_names: names of resources, in any order.
            timeout: seconds to wait; None waits without a limit.

        Raises:
            ValueError: no resource has one of the names.
            AcquireTimeoutError: the slots did not become free in time.

        """
        names = tuple(sorted({self.get(name).key for name in resource_names}))
        if not names:
            yield
            return
        engine = self._engine
        ticket = engine.create_ticket(Request(agent_id, MILLI, names, timeout))
        ownership.bind_here(ticket)
        try:
            engine.submit(ticket)
            if ticket.state is not State.GRANTED:
                await aio.wait_until_decided(engine, ticket)
            outer = ownership.enter_slot(ticket)
            try:
                yield
            finally:
                ownership.exit_slot(ticket, outer)
        finally:
            if ticket.state is State.GRANTED:
                engine.release(ticket)
            else:
                engine.cancel(ticket)
