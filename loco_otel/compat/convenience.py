"""The process's scheduler in one line: configure once, then wrap calls.

It is the one that patched SDK calls and `slot` pass too. A patched call in the body of a wrapped one is not scheduled
again.
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
"""Slots of a program that configures without saying how many, where nobody else has said so either."""


class ProcessScheduler(AsyncLOCOScheduler):
    """The process's scheduler, as one of the seed's API. Order and limits are the settings'."""

    def __init__(self, runtime: Runtime, resource_name: str) -> None:
        self._runtime = runtime
        self._init_state(SharedResource.over(runtime.engine, DEFAULT_RESOURCE, resource_name), None)
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

    Raising a capacity grants at once, lowering it takes effect as leases end; nobody who waits loses their place. What
    is not named stays as it is, with one exception: a program that calls this without any of `settings`, and says no
    capacity here or anywhere else, gets 3 slots.

    Args:
        capacity: how many slots; `"auto"` or None leaves it to loco-otel.
        optimize_for: `latency`, `balanced` or `throughput`.
        resource_name: what the resource is called in the event log.
        auto_tune: whether alpha follows what is seen of the queues.
        max_waiters: how many may wait at once.
        budget_mode: begin to keep budgets, see `BudgetManager`: `reject`, `alert` or `downgrade`.
        settings: any other, under the name of its key in the file.

    Raises:
        ConfigurationError: a key or value is wrong; nothing has changed then.
        ValueError: the budget mode is wrong; nothing has changed then.

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
    """Set what an agent may spend.

    Raises:
        RuntimeError: `configure` was not called with a budget mode.

    """
    scheduler = _find_scheduler()
    if scheduler is None or scheduler.budget is None:
        raise RuntimeError("No budgets are kept. Call loco_otel.configure(budget_mode='reject') first")
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

    A sync function runs in a thread, so that the loop goes on. Of an async generator function the result is its
    iterator, which takes the slot with its first step and keeps it until it ends or is closed.

    Args:
        fn: what to call.
        agent_id: who calls; registered when not known.
        weight: how heavy the call is; when None what such calls have taken, and 1.0 until that is known.
        timeout: seconds to wait for the slot. A function's own argument of this name is given with `functools.partial`.
        labels: more about the call, for programs that read events.
        kwargs: the function's arguments.

    Raises:
        RuntimeError: `configure` was not called.
        TypeError: `fn` is a sync generator function, which could not keep its slot.
        ValueError: the weight or timeout cannot be used.
        AcquireRejectedError: there was no slot for it, and `fn` was not called.

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
    """Decorate a function so that each call passes the scheduler; see `wrap`.

    A sync function becomes an async one.

    Raises:
        TypeError: at once, for a sync generator function.

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
    """Give up the process's scheduler as `configure` returned it; settings and calls under way stay as they are."""
    global _current
    scheduler, _current = _current, None
    if scheduler is not None:
        for agent in scheduler.agents.values():
            agent.tasks.leave()


def _find_scheduler() -> ProcessScheduler | None:
    runtime = process.get_existing_runtime()
    # Another runtime (a test's) has nothing of this one's.
    if _current is None or runtime is None or _current.resource.engine is not runtime.engine:
        return None
    return _current


def _create_scheduler(runtime: Runtime) -> ProcessScheduler:
    global _current  # noqa: PLW0603 - the process's
    _current = ProcessScheduler(runtime, DEFAULT_RESOURCE)
    return _current
