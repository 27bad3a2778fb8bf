"""The scheduler of the seed's API for asyncio: agents queue tasks, and take turns at the slots of one resource."""

import asyncio
import logging
import os
import random
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress

from loco_otel._core.policies.base import Policy
from loco_otel._core.policies.registry import POLICIES
from loco_otel._core.policies.registry import make_policy_factory as rule
from loco_otel._core.queue_set import QueueSet
from loco_otel._core.scheduler import Scheduler
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
"""The guard, where nobody says otherwise."""

_SAFE_ALPHA = 0.5
_HOLDER_CHECK_INTERVAL = 0.1
"""Seconds between two looks for leases that ended by themselves, while a shutdown waits for the last."""


class AcquireHandle:
    """A slot between `acquire_start` and `release_handle`; one that is dropped gives its slot back.

    Args:
        handle_id: 12 hexadecimal digits when empty.
        agent_id: who holds it.

    """

    __slots__ = ("_id", "agent_id", "lease")

    def __init__(self, handle_id: str = "", agent_id: str = "") -> None:
        self._id = handle_id
        self.agent_id = agent_id
        self.lease: Lease | None = None

    @property
    def handle_id(self) -> str:
        """Its name."""
        if not self._id:
            self._id = os.urandom(6).hex()
        return self._id

    @property
    def task(self) -> Task | None:
        """What the slot was granted for."""
        task: Task | None = None if self.lease is None else self.lease.task
        return task

    def __repr__(self) -> str:
        return f"AcquireHandle(handle_id={self.handle_id!r}, agent_id={self.agent_id!r})"


class AsyncLOCOScheduler:
    """Grants the slots of a resource to agents by load; any number of event loops and threads may share it.

    Each release is a tick: tasks that are queued age by one. Who waits is chosen by
    L(i) = alpha * Qi / max Q + (1 - alpha) * Di / max D over the agents that wait, where Qi is the weight that agent i
    has queued and Di the age of its oldest task. The agent's oldest task goes with the slot.

    Args:
        agents: who may ask; `submit_task` and `register_agent` add more.
        resource: whose slots.
        alpha: share of Q in the load, from 0 to 1.
        optimize_for: a word for alpha: `latency` 0.0, `balanced` 0.25 (what holds when nothing is said), `throughput`
            0.5.
        max_waiters: how many may wait at once.
        seed: of the draws between equals.
        on_task_started: called with agent and task once a task has its slot. May be async.
        on_task_completed: called with agent, task and result once a task's slot is free again, unless its work failed.
            May be async.
        auto_tune: find alpha by itself, see `AdaptiveAlphaTuner`.
        budget: what the agents may spend.
        max_wait_ticks: whoever has waited so many ticks goes first, whatever the load says; 0 leaves the formula
            unguarded, which starves agents from alpha 0.5 on.
        policy: `load`; `fair`, by cost served: a heavy agent waits for itself; or `fifo`, who asked first.

    Raises:
        ValueError: alpha or the policy, or an agent twice.

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
        draw = random.Random(seed).random  # noqa: S311 - breaks ties, keeps no secret
        self._policy = _make_policy_factory(policy, share, draw)
        self._max_wait_ticks = max_wait_ticks
        self._max_waiters = max_waiters
        self.tuner: AdaptiveAlphaTuner | None = None
        """Finds alpha, looking at each release for which somebody waits."""
        self._init_state(resource, budget)
        self._apply_to_core()
        resource.schedulers.add(self)
        self.on_task_started: Started | None = on_task_started
        self.on_task_completed: Completed | None = on_task_completed
        for agent in agents:
            self.register_agent(agent)
        if auto_tune and policy == "load":
            self.tuner = AdaptiveAlphaTuner(self)
            self._queue_set.tuner = self.tuner.rule

    def follow(self) -> None:
        """Go where the resource is now."""
        self._find_queue_set()
        self._apply_to_core()
        for agent in self._agents.values():
            agent.tasks.join(self._bind_queue(agent.agent_id))

    def _find_queue_set(self) -> None:
        self._core: Scheduler = self.resource.engine.update_core(lambda core, _: core)
        self._queue_set: QueueSet = self._core.resources.get_queue_set((self.resource.key,))

    def _apply_to_core(self) -> None:
        def change(core: Scheduler, _: float) -> None:
            core.max_waiters = self._max_waiters
            line = self._queue_set
            line.max_wait_ticks = self._max_wait_ticks
            line.tuner = None if self.tuner is None else self.tuner.rule
            line.replace_policy(self._policy)

        self.resource.engine.update_core(change)

    def _bind_queue(self, agent_id: str) -> QueueBinding:
        resource = self.resource
        return QueueBinding(
            resource.engine, self._queue_set, resource.key, agent_id, admission=self._budget is not None
        )

    def _init_state(self, resource: SharedResource, budget: BudgetManager | None) -> None:
        self.resource = resource
        self._budget = budget
        self.metrics = SchedulerMetrics(self)
        self.closed = False
        self._find_queue_set()
        self._agents: dict[str, Agent] = {}
        self._on_lease_end: Callable[[], None] | None = None

    _has_default_timeout = False
    """Whether there may be a limit to a wait of which nobody says how long it may be."""

    # -- agents -----------------------------------------------------------------------------------------------------

    @property
    def agents(self) -> dict[str, Agent]:
        """All agents by name."""
        return self._agents

    def get_agent(self, agent_id: str) -> Agent:
        """Return an agent.

        Raises:
            ValueError: there is none of this name.

        """
        try:
            return self._agents[agent_id]
        except KeyError:
            raise ValueError(f"Unknown agent: {agent_id}") from None

    def register_agent(self, agent: Agent) -> None:
        """Add an agent, with what it has queued.

        Raises:
            ValueError: there is one of this name.

        """
        agent_id = agent.agent_id
        if agent_id in self._agents or self._agents.setdefault(agent_id, agent) is not agent:
            raise ValueError(f"Agent already registered: {agent.agent_id}")
        agent.tasks.join(self._bind_queue(agent_id))

    def unregister_agent(self, agent_id: str) -> Agent:
        """Take an agent out, and return it with what it has queued.

        Raises:
            ValueError: there is none of this name.
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
        """Queue a task; an agent that is not known is registered.

        Raises:
            ShutdownError: nothing is taken any more.

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
        """Hold a slot for the length of an `async with` body, for the agent's oldest task at that time.

        The body gets that task, or None where the agent has none: then the slot is a plain one and costs nothing. What
        the body does not take by `serve_oldest_task` is completed at its end. A body that raises costs nothing.

        Args:
            agent_id: who asks.
            timeout: seconds to wait.

        Raises:
            ValueError: there is no agent of this name.
            AcquireRejectedError: on entering: a timeout (then also a TimeoutError), too many waiters, a budget, or
                shutdown; the subclass says which.

        """
        agent = self._agents.get(agent_id) or self.get_agent(agent_id)
        if timeout is not None or self._has_default_timeout:
            timeout = self._resolve_timeout(timeout)
        return Lease(self, agent, timeout, None)

    def hold(self, agent_id: str, task: Task, *, timeout: float | None = None) -> Lease:
        """Queue a task and hold a slot for just this one; where it gets none it is not queued any more.

        For `wrap` and for adapters. An agent that is not known is registered.
        """
        agent = self._agents.get(agent_id) or self._create_agent(agent_id)
        if task.learns:
            self.learn(task)
        return Lease(self, agent, self._resolve_timeout(timeout), task)

    async def acquire_start(self, agent_id: str, *, timeout: float | None = None) -> AcquireHandle:  # noqa: ASYNC109 - the seed's
        """Take a slot where begin and end are in different callbacks; see `acquire`."""
        lease = self.acquire(agent_id, timeout=timeout)
        await lease.__aenter__()
        handle = AcquireHandle(agent_id=agent_id)
        handle.lease = lease
        return handle

    async def release_handle(self, handle: AcquireHandle) -> None:
        """Give back the slot of a handle; harmless when repeated."""
        if handle.lease is not None and handle.lease.end_lease():
            await handle.lease.call_completed_hook(None)

    def learn(self, task: Task) -> None:
        """Give a task whose weight nobody stated the weight that such tasks have had."""
        learnt = self.metrics.learnt_weight(task.task_type)
        if learnt is not None:
            task.weight = learnt

    def _resolve_timeout(self, timeout: float | None) -> float | None:
        """Return how many seconds somebody may wait.

        Raises:
            ValueError: the time given is none.

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

    # -- how it stands ----------------------------------------------------------------------------------------------

    @property
    def alpha(self) -> float:
        """Share of Q in the load, as it is now."""
        return self._queue_set.policy.alpha

    @property
    def logical_tick(self) -> int:
        """How many slots were given back."""
        return self._queue_set.tick

    @property
    def max_waiters(self) -> int:
        """How many may wait at once; `sys.maxsize` where no bound is set."""
        bound = self._core.max_waiters
        return sys.maxsize if bound is None else bound

    def trace(self) -> object:
        """Capture the caller's context, for listeners."""
        return None

    @property
    def budget(self) -> BudgetManager | None:
        """What the agents may spend."""
        return self._budget

    @budget.setter
    def budget(self, budget: BudgetManager | None) -> None:
        self._budget = budget
        for agent in tuple(self._agents.values()):
            agent.tasks.ask_for_admission(budget is not None)

    # -- the end ----------------------------------------------------------------------------------------------------

    async def shutdown(self, timeout: float = 30.0) -> dict[str, int]:  # noqa: ASYNC109 - the seed's
        """Turn away all who wait and all who come, and wait until the holders have ended.

        Args:
            timeout: seconds to wait for the holders.

        Returns:
            How many waiters were turned away, and how many still hold.

        """
        self.closed = True
        turned_away = self.resource.engine.reject_waiting(self._list_tickets(), Outcome.SHUTDOWN)
        loop = asyncio.get_running_loop()
        due = loop.time() + timeout
        while (left := due - loop.time()) > 0 and self._count_holders():
            await self._wait_for_end(min(left, _HOLDER_CHECK_INTERVAL))
        return {"cancelled_waiters": turned_away, "active_holders": self._count_holders()}

    def note_end(self) -> None:
        """Note that a lease has ended, while a shutdown may wait for it."""
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
        return  # the loop is closed, so nobody waits there


def _make_policy_factory(name: str, alpha: float, draw: Callable[[], float]) -> Callable[[], Policy]:
    """Return what makes a policy.

    Raises:
        ValueError: there is none of this name.

    """
    if name not in POLICIES:
        raise ValueError(f"policy must be one of {list(POLICIES)}, not {name!r}")
    return rule(name, alpha=alpha, shares={}, draw=draw)


_has_warned = False


def _warn_about_alpha(alpha: float, max_wait_ticks: int) -> None:
    global _has_warned  # noqa: PLW0603 - said once in a process
    if not _has_warned:
        _has_warned = True
        _logger.warning(
            "alpha %s is above 0.5, where the load rule starves agents: whoever has waited %d ticks goes first; "
            "max_wait_ticks=0 turns that off",
            alpha,
            max_wait_ticks,
        )
