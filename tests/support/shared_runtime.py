"""Runtimes that share a server, as processes do, and what they do with resources of the settings."""

from collections.abc import Callable

from shared_engine import wait_decided

from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.redis.engine import RedisEngine
from loco_otel._runtime.runtime import Runtime
from loco_otel.events import Request, ResourceSnapshot

MakeRuntime = Callable[..., Runtime]
"""Makes a runtime with given settings, see the fixture `make_runtime`."""


def ask(runtime: Runtime, *resources: str, agent: str = "a", timeout: float | None = None) -> Ticket:
    """Request a slot of each of these resources."""
    ticket = runtime.engine.create_ticket(Request(agent, 1000, resources, timeout))
    runtime.engine.submit(ticket)
    return ticket


def take(runtime: Runtime, *resources: str) -> Ticket:
    """Wait for a slot of each of these resources, and return the lease."""
    ticket = wait_decided(runtime.engine, ask(runtime, *resources))
    assert ticket.state is State.GRANTED
    return ticket


def read(runtime: Runtime, resource: str) -> ResourceSnapshot:
    """Return the state of a resource."""
    return next(it for it in runtime.engine.take_snapshot().resources if it.resource == resource)


def get_engine(runtime: Runtime) -> RedisEngine:
    """Return the shared engine of a runtime."""
    assert isinstance(runtime.engine, RedisEngine)
    return runtime.engine
