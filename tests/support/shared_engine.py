"""Engines that share a server, as processes do, and callers of them."""

import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

from patience import PATIENCE

from loco_otel._core.adaptive_limit import AdaptiveLimit
from loco_otel._core.policies.registry import make_policy_factory
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.in_process import InProcessEngine
from loco_otel._engine.redis.engine import EngineOptions, RedisEngine
from loco_otel._engine.shared_limits import SharedLimits
from loco_otel.events import DEFAULT_RESOURCE, Request
from loco_otel.snapshots import EngineMode

LLM = (DEFAULT_RESOURCE,)

Make = Callable[..., RedisEngine]
"""Makes an engine with given limits and options, see the fixture `make`."""


def make_engine(
    url: str, namespace: str, limits: SharedLimits | None = None, *, max_waiters: int | None = None, **options: Any
) -> RedisEngine:
    """Return an engine of its own, as another process has it. Without a capacity any resource may be requested."""
    limits = limits or SharedLimits(1, "load", 0.25, 1000)
    policy = make_policy_factory(
        limits.policy,
        alpha=limits.alpha,
        shares=limits.shares,
        draw=lambda: 0.5,
        half_life=limits.half_life,
        idle_timeout=limits.run_idle_timeout,
    )
    bounds = {"max_wait_ticks": limits.max_wait_ticks, "max_waiters": max_waiters}
    bounds |= {"by_run": limits.by_run, "tenant_shares": limits.tenant_shares}
    if limits.capacity is None:
        ceiling = limits.capacity_max
        core = Scheduler({}, policy, make_unknown_pool=lambda name: SlotPool(name, AdaptiveLimit(ceiling)), **bounds)
        return RedisEngine(core, EngineOptions(url, namespace, **options), {}, discovered=limits)
    core = Scheduler({DEFAULT_RESOURCE: limits.capacity}, policy, **bounds)
    return RedisEngine(core, EngineOptions(url, namespace, **options), {DEFAULT_RESOURCE: limits})


def submit(engine: RedisEngine, agent: str = "a", weight: int = 1000, timeout: float | None = None) -> Ticket:
    """Request a slot."""
    ticket = engine.create_ticket(Request(agent, weight, LLM, timeout))
    engine.submit(ticket)
    return ticket


def wait_decided(engine: InProcessEngine, ticket: Ticket, blocks: tuple[Hashable, ...] = ()) -> Ticket:
    """Park until a ticket is decided, as the shells do."""
    woken = threading.Event()
    engine.park_ticket(ticket, woken.set, blocks)
    assert woken.wait(PATIENCE), f"{ticket} is not decided"
    assert ticket.state is not State.WAITING
    return ticket


def acquire(engine: RedisEngine, agent: str = "a", weight: int = 1000) -> Ticket:
    """Wait for a slot, and return the lease."""
    ticket = wait_decided(engine, submit(engine, agent, weight))
    assert ticket.state is State.GRANTED, ticket
    return ticket


def wait_queued(ticket: Ticket) -> Ticket:
    """Wait until the server has queued a ticket."""
    wait_until(lambda: not ticket.is_unanswered)
    assert ticket.state is State.WAITING
    return ticket


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what must happen."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.002)


def read_mode(engine: RedisEngine) -> EngineMode:
    """Return the mode of an engine."""
    state = engine.take_snapshot().engine
    assert state is not None
    return state.mode
