"""Module-level functions over the process's scheduler: configure once, then wrap calls.

Patched SDK calls and `slot` use the same scheduler. A patched call inside a wrapped one is not scheduled again.
"""

from collections.abc import Callable, Mapping
from functools import partial, wraps
from types import EllipsisType
from typing import Any

from loco_otel._config.settings import Settings
from loco_otel._runtime import process
from loco_otel._runtime.runtime import Runtime
from loco_otel.compat.async_scheduler import AsyncLOCOScheduler
from loco_otel.compat.budget import BudgetManager
from loco_otel.compat.functions import LeasedGenerator, is_async_generator, run_under_lease
from loco_otel.compat.lease import Lease
from loco_otel.compat.resource import SharedResource
from loco_otel.compat.task import Task
from loco_otel.events import DEFAULT_RESOURCE

_DEFAULT_CAPACITY = 3
"""Slots of a program that calls `configure` without a capacity, if no other source sets one."""


class ProcessScheduler(AsyncLOCOScheduler):
    """The process's scheduler in the form of loco-agent's API. The settings define policy and limits."""

    def __init__(self, runtime: Runtime, resource_name: str) -> None:
        self._runtime = runtime
        resource = SharedResource.over(runtime.engine, DEFAULT_RESOURCE, resource_name, runtime.governor)
        self._init_state(resource, None)
        self.on_task_started = None
        self.on_task_completed = None

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._runtime.settings

    def trace(self) -> object:
        """Capture the caller's context, for listeners."""
        return self._runtime.capture_trace()

    _has_default_timeout = True

    def _resolve_timeout(self, timeout: float | None) -> float | None:
        self._runtime.detect_otel_sdk()
        return super()._resolve_timeout(self.settings.acquire_timeout if timeout is None else timeout)


_current: ProcessScheduler | None = None


def configure(
    capacity: int | str | EllipsisType | None = ...,
    *,
    optimize_for: str | None = None,
    resource_name: str | None = None,
    auto_tune: bool | None = None,
    max_waiters: int | None = None,
    budget_mode: str | None = None,
    **settings: object,
) -> ProcessScheduler:
    """Change settings of the running program, and return its scheduler.

    A higher capacity grants at once, a lower one takes effect as leases end; waiting requests keep their positions.
    Settings without an argument keep their values, with one exception: a call without any of `settings`, and without a
    capacity here or in another source, sets a capacity of 3.

    Args:
        capacity: the number of slots; `"auto"` or None adapts it.
        optimize_for: `latency`, `balanced` or `throughput`.
        resource_name: the resource's name in the event log.
        auto_tune: whether alpha adapts to the queues.
        max_waiters: the most requests that may wait at once.
        budget_mode: enables budgets, see `BudgetManager`: `reject`, `alert` or `downgrade`.
        settings: any other settings, by their keys in the file.

    Raises:
        ConfigurationError: a key or value is invalid. Nothing is changed.
        ValueError: the budget mode is invalid. Nothing is changed.

    Example:
        >>> configure(capacity=2).resource.capacity
        2

    """
    budget = None if budget_mode is None else BudgetManager(on_exceeded=budget_mode)
    runtime = process.get_runtime()
    changes: dict[str, object] = dict(settings)
    if capacity is not ...:
        changes["capacity"] = capacity
    elif not settings and runtime.settings.origin("capacity") == "default":
        changes["capacity"] = _DEFAULT_CAPACITY
    named = {"optimize_for": optimize_for, "auto_tune": auto_tune, "max_waiters": max_waiters}
    changes |= {key: value for key, value in named.items() if value is not None}
    process.change_settings(**changes)
    scheduler = _find_scheduler() or _create_scheduler(runtime)
    if resource_name is not None:
        scheduler.resource.name = resource_name
    if budget is not None:
        scheduler.budget = budget
    return scheduler


def get_scheduler() -> ProcessScheduler:
    """Return the process's scheduler.

    Raises:
        RuntimeError: `configure` was not called.

    """
    scheduler = _find_scheduler()
    if scheduler is None:
        raise RuntimeError("Call loco_otel.configure() before wrap(), scheduled() or get_scheduler()")
    return scheduler


def set_budget(agent_id: str, max_cost: float) -> None:
    """Set the budget of an agent, in units of weight.

    Raises:
        RuntimeError: `configure` was not called with a budget mode.

    """
    scheduler = _find_scheduler()
    if scheduler is None or scheduler.budget is None:
        raise RuntimeError("Budgets are not enabled. Call loco_otel.configure(budget_mode='reject') first")
    scheduler.budget.set_limit(agent_id, max_cost)


async def wrap(
    fn: Callable[..., Any],
    *,
    agent_id: str,
    weight: float | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 - of the wait for the slot
    labels: Mapping[str, str] | None = None,
    **kwargs: Any,
) -> Any:
    """Call a function under a slot, and return its result.

    A sync function runs in a thread, so that the event loop is not blocked. For an async generator function the result
    is its iterator, which acquires the slot with its first step and holds it until it ends or is closed.

    Args:
        fn: the function.
        agent_id: the calling agent; registered if unknown.
        weight: the size of the call; None means the average of such calls, and 1.0 without one.
        timeout: seconds to wait for the slot.
        labels: further values for programs that read events.
        kwargs: the function's arguments. One that has a name from above, as `timeout`, is passed with
            `functools.partial`.

    Raises:
        RuntimeError: `configure` was not called.
        TypeError: `fn` is a sync generator function, which cannot hold a slot.
        ValueError: the weight or timeout is invalid.
        AcquireRejectedError: the request was rejected, and `fn` was not called.

    Example:
        >>> import asyncio
        >>> scheduler = configure(capacity=2)
        >>> asyncio.run(wrap(lambda: 'answer', agent_id='analyst'))
        'answer'

    """
    streams = is_async_generator(fn)
    lease = get_scheduler().hold(agent_id, Task(weight=weight, labels=labels), timeout=timeout)
    function = partial(fn, **kwargs)
    return LeasedGenerator(lease, function) if streams else await run_under_lease(lease, function)


def scheduled(
    *,
    agent_id: str,
    weight: float | None = None,
    timeout: float | None = None,
    labels: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that schedules each call of a function; see `wrap`.

    A sync function becomes an async one.

    Raises:
        TypeError: on decoration, for a sync generator function.

    """

    def lease() -> Lease:
        return get_scheduler().hold(agent_id, Task(weight=weight, labels=labels), timeout=timeout)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if is_async_generator(function):

            @wraps(function)
            def stream(*args: Any, **kwargs: Any) -> LeasedGenerator:
                return LeasedGenerator(lease(), partial(function, *args, **kwargs))

            return stream

        @wraps(function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await run_under_lease(lease(), partial(function, *args, **kwargs))

        return call

    return decorate


def reset() -> None:
    """Discard the scheduler that `configure` returned. Settings and calls in flight are unchanged."""
    global _current
    scheduler, _current = _current, None
    if scheduler is not None:
        for agent in scheduler.agents.values():
            agent.tasks.leave()


def _find_scheduler() -> ProcessScheduler | None:
    runtime = process.get_existing_runtime()
    # The scheduler of another runtime (of a test) is not this one's.
    if _current is None or runtime is None or _current.resource.engine is not runtime.engine:
        return None
    return _current


def _create_scheduler(runtime: Runtime) -> ProcessScheduler:
    global _current  # noqa: PLW0603 - the process's
    _current = ProcessScheduler(runtime, DEFAULT_RESOURCE)
    return _current
