"""The scheduler of loco-agent's API for asyncio: agents queue tasks, and share the slots of one resource."""

import asyncio
import logging
import os
import random
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import get_args

from loco_otel._config.settings import PolicyName
from loco_otel.compat import logging as event_log
from loco_otel.compat.adaptive import AdaptiveAlphaTuner
from loco_otel.compat.agent import Agent
from loco_otel.compat.budget import BudgetManager
from loco_otel.compat.lease import Lease, LeaseTicket
from loco_otel.compat.metrics import SchedulerMetrics
from loco_otel.compat.queue_binding import QueueBinding
from loco_otel.compat.resource import SharedResource
from loco_otel.compat.scheduler import chosen_alpha
from loco_otel.compat.task import Task
from loco_otel.errors import BackpressureError, ShutdownError
from loco_otel.events import MILLI, Outcome

__all__ = ["AcquireHandle", "AsyncLOCOScheduler", "BackpressureError", "ShutdownError"]

_logger = logging.getLogger("loco_otel")

Started = Callable[[str, Task], object]
Completed = Callable[[str, Task, object], object]

MAX_WAIT_TICKS = 1000
"""The default of the guard against starvation."""

_SAFE_ALPHA = 0.5
_HOLDER_CHECK_INTERVAL = 0.1
"""Seconds between two checks for leases that ended without `note_end`, while a shutdown waits."""


class AcquireHandle:
    """A slot between `acquire_start` and `release_handle`. A handle that is dropped releases its slot.

    Args:
        handle_id: an identifier; empty generates 12 hexadecimal digits.
        agent_id: the holding agent.

    """

    __slots__ = ("_id", "agent_id", "lease")

    def __init__(self, handle_id: str = "", agent_id: str = "") -> None:
        self._id = handle_id
        self.agent_id = agent_id
        self.lease: Lease | None = None

    @property
    def handle_id(self) -> str:
        """Its identifier."""
        if not self._id:
            self._id = os.urandom(6).hex()
        return self._id

    @property
    def task(self) -> Task | None:
        """The task that the slot was granted for."""
        task: Task | None = None if self.lease is None else self.lease.task
        return task

    def __repr__(self) -> str:
        return f"AcquireHandle(handle_id={self.handle_id!r}, agent_id={self.agent_id!r})"


class AsyncLOCOScheduler:
    """Grants the slots of a resource to agents by load. Thread-safe, also across event loops.

    Each release is a tick: queued tasks age by one. Of the waiting agents the one with the highest load is served next,
    L(i) = alpha * Qi / max Q + (1 - alpha) * Di / max D, where Qi is the queued weight of agent i and Di the age of its
    oldest task. The slot is granted for the agent's oldest task.

    Args:
        agents: the agents; `submit_task` and `register_agent` add more.
        resource: the resource whose slots are granted.
        alpha: share of Q in the load, from 0 to 1.
        optimize_for: a word for alpha: `latency` 0.0, `balanced` 0.25 (the default), `throughput` 0.5.
        max_waiters: the most requests that may wait for the resource at once.
        seed: the seed of the draws between equal agents.
        on_task_started: called with agent and task after the grant. May be async.
        on_task_completed: called with agent, task and result after the release, unless the task failed. May be async.
        auto_tune: adapt alpha, see `AdaptiveAlphaTuner`.
        budget: the budgets of the agents.
        max_wait_ticks: ticks after which the oldest waiter is served first, independently of the load; 0 disables this
            guard, and agents starve from alpha 0.5 on.
        policy: `load`; `fair`, by cost served, so that heavy work delays only its own agent; or `fifo`.

    Raises:
        ValueError: alpha or the policy is invalid, or an agent occurs twice.

    Example:
        >>> import asyncio
        >>> from loco_otel import Agent, SharedResource, Task
        >>> scheduler = AsyncLOCOScheduler([Agent('analyst')], SharedResource('llm'))
        >>> async def main():
        ...     await scheduler.submit_task('analyst', Task('summary'))
        ...     async with scheduler.acquire('analyst') as task:
        ...         return task.task_id
        >>> asyncio.run(main())
        'summary'

    """

    def __init__(
        self,
        agents: Iterable[Agent],
        resource: SharedResource,
        *,
        alpha: float | None = None,
        optimize_for: str | None = None,
        max_waiters: int = 100,
        seed: int | None = None,
        on_task_started: Started | None = None,
        on_task_completed: Completed | None = None,
        auto_tune: bool = False,
        budget: BudgetManager | None = None,
        max_wait_ticks: int = MAX_WAIT_TICKS,
        policy: str = "load",
    ) -> None:
        share = chosen_alpha(alpha, optimize_for)
        if share > _SAFE_ALPHA and max_wait_ticks and policy == "load":
            _warn_about_alpha(share, max_wait_ticks)
        self._policy = _validate_policy(policy)
        self._alpha = share
        self._draw = random.Random(seed).random  # noqa: S311 - breaks ties, keeps no secret
        self._max_wait_ticks = max_wait_ticks
        self._max_waiters = max_waiters
        self.tuner: AdaptiveAlphaTuner | None = None
        """Adapts alpha at each release while requests wait; None keeps it constant."""
        self._init_state(resource, budget)
        self._configure_resource()
        resource.schedulers.add(self)
        self.on_task_started: Started | None = on_task_started
        self.on_task_completed: Completed | None = on_task_completed
        for agent in agents:
            self.register_agent(agent)
        if auto_tune and policy == "load":
            self.tuner = AdaptiveAlphaTuner(self)
            self._configure_resource()

    def follow(self) -> None:
        """Bind to the engine that the resource has moved to."""
        self._configure_resource()
        for agent in self._agents.values():
            agent.tasks.join(self._bind_queue(agent.agent_id))

    def _configure_resource(self) -> None:
        self.resource.view.set_max_waiters(self._max_waiters)
        self.resource.view.set_policy(
            self._policy,
            alpha=self._alpha,
            draw=self._draw,
            max_wait_ticks=self._max_wait_ticks,
            tuner=None if self.tuner is None else self.tuner.rule,
        )

    def _bind_queue(self, agent_id: str) -> QueueBinding:
        resource = self.resource
        return QueueBinding(resource.engine, resource.view, agent_id, admission=self._budget is not None)

    def _init_state(self, resource: SharedResource, budget: BudgetManager | None) -> None:
        self.resource = resource
        self._budget = budget
        self.metrics = SchedulerMetrics(self)
        self.closed = False
        self._agents: dict[str, Agent] = {}
        self._on_lease_end: Callable[[], None] | None = None

    _has_default_timeout = False
    """Whether waits without an explicit timeout may have one."""

    # -- agents -----------------------------------------------------------------------------------------------------

    @property
    def agents(self) -> dict[str, Agent]:
        """All agents by name."""
        return self._agents

    def get_agent(self, agent_id: str) -> Agent:
        """Return an agent.

        Raises:
            ValueError: no agent has this name.

        """
        try:
            return self._agents[agent_id]
        except KeyError:
            raise ValueError(f"Unknown agent: {agent_id}") from None

    def register_agent(self, agent: Agent) -> None:
        """Add an agent, with its queued tasks.

        Raises:
            ValueError: an agent has this name.

        """
        agent_id = agent.agent_id
        if agent_id in self._agents or self._agents.setdefault(agent_id, agent) is not agent:
            raise ValueError(f"Agent already registered: {agent.agent_id}")
        agent.tasks.join(self._bind_queue(agent_id))

    def unregister_agent(self, agent_id: str) -> Agent:
        """Remove an agent, and return it with its queued tasks.

        Raises:
            ValueError: no agent has this name.
            RuntimeError: it holds a slot, or waits for one.

        """
        agent = self.get_agent(agent_id)
        own = [ticket for ticket in self._list_tickets() if ticket.request.agent == agent_id]
        if any(ticket.state.is_holding for ticket in own):
            raise RuntimeError(f"Agent {agent_id} is currently holding a slot of {self.resource.name}")
        if own:
            raise RuntimeError(f"Agent {agent_id} is waiting for a slot of {self.resource.name}")
        del self._agents[agent_id]
        agent.tasks.leave()
        return agent

    # -- work -------------------------------------------------------------------------------------------------------

    async def submit_task(self, agent_id: str, task: Task) -> None:
        """Queue a task. An unknown agent is registered.

        Raises:
            ShutdownError: the scheduler is shutting down.

        """
        if self.closed:
            raise ShutdownError("The scheduler is shutting down", agent=agent_id, resource=self.resource.name)
        agent = self._agents.get(agent_id) or self._create_agent(agent_id)
        if task.learns:
            self.learn(task)
        agent.tasks.append(task)
        if event_log.logger.isEnabledFor(event_log.INFO):
            depth = agent.tasks.backlog.weight / MILLI
            event_log.emit_enqueue(self.logical_tick, agent_id, task, depth, self.resource.name)

    def acquire(self, agent_id: str, *, timeout: float | None = None) -> Lease:
        """Hold a slot for the duration of an `async with` body, for the agent's oldest task at the grant.

        The body gets that task; it is None, and the slot costs nothing, if the agent has no task. A task that the body
        does not complete with `serve_oldest_task` is completed at its end. A body that raises costs nothing.

        Args:
            agent_id: the requesting agent.
            timeout: seconds to wait; None waits without a limit.

        Raises:
            ValueError: no agent has this name.
            AcquireRejectedError: on entry: a timeout (also a TimeoutError), too many waiters, a budget, or shutdown,
                each as a subclass.

        """
        agent = self._agents.get(agent_id) or self.get_agent(agent_id)
        if timeout is not None or self._has_default_timeout:
            timeout = self._resolve_timeout(timeout)
        return Lease(self, agent, timeout, None)

    def hold(self, agent_id: str, task: Task, *, timeout: float | None = None) -> Lease:
        """Queue a task and hold a slot for this task only; a rejected request removes the task.

        For `wrap` and for adapters. An unknown agent is registered.
        """
        agent = self._agents.get(agent_id) or self._create_agent(agent_id)
        if task.learns:
            self.learn(task)
        return Lease(self, agent, self._resolve_timeout(timeout), task)

    async def acquire_start(self, agent_id: str, *, timeout: float | None = None) -> AcquireHandle:  # noqa: ASYNC109 - loco-agent's
        """Acquire a slot whose release is in another callback; see `acquire`."""
        lease = self.acquire(agent_id, timeout=timeout)
        await lease.__aenter__()
        lease.outlive_context()
        handle = AcquireHandle(agent_id=agent_id)
        handle.lease = lease
        return handle

    async def release_handle(self, handle: AcquireHandle) -> None:
        """Release the slot of a handle. Idempotent."""
        if handle.lease is not None and handle.lease.end_lease():
            await handle.lease.call_completed_hook(None)

    def learn(self, task: Task) -> None:
        """Set the weight of a task without a stated weight to the average of its type."""
        learnt = self.metrics.learnt_weight(task.task_type)
        if learnt is not None:
            task.weight = learnt

    def _resolve_timeout(self, timeout: float | None) -> float | None:
        """Return the timeout of a request in seconds.

        Raises:
            ValueError: the timeout is invalid.

        """
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout must be a number of seconds of at least 0, not {timeout!r}")
        return timeout

    def _create_agent(self, agent_id: str) -> Agent:
        try:
            self.register_agent(Agent(agent_id))
        except ValueError:  # another thread was first
            return self.get_agent(agent_id)
        return self._agents[agent_id]

    # -- state ------------------------------------------------------------------------------------------------------

    @property
    def alpha(self) -> float:
        """The current share of Q in the load."""
        return self.resource.view.alpha

    @property
    def logical_tick(self) -> int:
        """The number of releases."""
        return self.resource.view.tick

    @property
    def max_waiters(self) -> int:
        """The most requests that may wait at once; `sys.maxsize` without a bound."""
        bounds = self.resource.view.max_waiters, self.resource.engine.max_waiters
        return min((bound for bound in bounds if bound is not None), default=sys.maxsize)

    def trace(self) -> object:
        """Capture the caller's context, for listeners."""
        return None

    @property
    def budget(self) -> BudgetManager | None:
        """The budgets of the agents; None if there are none."""
        return self._budget

    @budget.setter
    def budget(self, budget: BudgetManager | None) -> None:
        self._budget = budget
        for agent in tuple(self._agents.values()):
            agent.tasks.ask_for_admission(budget is not None)

    # -- the end ----------------------------------------------------------------------------------------------------

    async def shutdown(self, timeout: float = 30.0) -> dict[str, int]:  # noqa: ASYNC109 - loco-agent's
        """Reject waiting and new requests, and wait until all slots are released.

        Args:
            timeout: seconds to wait for the releases.

        Returns:
            The number of rejected waiters, and of slots still held.

        """
        self.closed = True
        rejected = self.resource.engine.reject_waiting(self._list_tickets(), Outcome.SHUTDOWN)
        loop = asyncio.get_running_loop()
        due = loop.time() + timeout
        while (left := due - loop.time()) > 0 and self._count_holders():
            await self._wait_for_end(min(left, _HOLDER_CHECK_INTERVAL))
        return {"cancelled_waiters": rejected, "active_holders": self._count_holders()}

    def note_end(self) -> None:
        """Notify a waiting shutdown that a lease has ended."""
        ended = self._on_lease_end
        if ended is not None:
            ended()

    async def _wait_for_end(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        self._on_lease_end = lambda: _set_event_threadsafe(loop, ended)
        if self._count_holders():
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), seconds)

    def _count_holders(self) -> int:
        return sum(ticket.state.is_holding for ticket in self._list_tickets())

    def _list_tickets(self) -> list[LeaseTicket]:
        tickets = self.resource.engine.list_tickets()
        return [ticket for ticket in tickets if isinstance(ticket, LeaseTicket) and ticket.scheduler is self]


def _set_event_threadsafe(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    try:
        loop.call_soon_threadsafe(event.set)
    except RuntimeError:
        return  # the loop is closed, so its shutdown no longer waits


def _validate_policy(name: str) -> str:
    """Return the name of a policy.

    Raises:
        ValueError: no policy has this name.

    """
    if name not in get_args(PolicyName):
        raise ValueError(f"policy must be one of {list(get_args(PolicyName))}, not {name!r}")
    return name


_has_warned = False


def _warn_about_alpha(alpha: float, max_wait_ticks: int) -> None:
    global _has_warned  # noqa: PLW0603 - logged once per process
    if not _has_warned:
        _has_warned = True
        _logger.warning(
            "alpha %s is above 0.5, where the load policy starves agents: after %d ticks the oldest waiter is served "
            "first (max_wait_ticks=0 disables this; logged once)",
            alpha,
            max_wait_ticks,
        )
