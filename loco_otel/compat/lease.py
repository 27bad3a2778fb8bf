"""A slot of a scheduler of loco-agent's API, and the task that it was granted for: from request to charge."""

import asyncio
import inspect
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import Any, Protocol
from weakref import ref

from loco_otel._core.policies.load import compute_load
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.base import Engine
from loco_otel._waiting import aio, ownership, threads
from loco_otel.compat import logging as event_log
from loco_otel.compat.agent import Agent
from loco_otel.compat.budget import BudgetManager
from loco_otel.compat.metrics import SchedulerMetrics
from loco_otel.compat.resource import SharedResource
from loco_otel.compat.task import Task
from loco_otel.errors import AcquireTimeoutError, BudgetExceededError, ShutdownError
from loco_otel.events import MILLI, GrantReason

# Bound once: on Python 3.11 each access to an enum member costs as much as a call.
_GRANTED = State.GRANTED


class LeasingScheduler(Protocol):
    """The scheduler of a lease."""

    resource: SharedResource
    metrics: SchedulerMetrics
    closed: bool
    on_task_started: Callable[[str, Task], object] | None
    on_task_completed: Callable[[str, Task, object], object] | None

    @property
    def budget(self) -> BudgetManager | None:
        """The budgets of the agents."""

    @property
    def alpha(self) -> float:
        """Share of Q in the load."""

    @property
    def logical_tick(self) -> int:
        """The number of releases."""

    def trace(self) -> object:
        """Capture the caller's context, for listeners."""

    def note_end(self) -> None:
        """Notify a waiting shutdown that a lease has ended."""


class LeaseTicket(Ticket):
    """A ticket of loco-agent's API."""

    scheduler: object = None
    """The scheduler that created it."""
    asyncio_task: object = None
    """The requesting asyncio task, as a weak reference: its result may hold the ticket."""


class Lease:
    """Holds one slot for the duration of an `async with` body. Not reusable.

    Args:
        scheduler: the scheduler of the slot.
        agent: the requesting agent.
        timeout: seconds to wait.
        own: the task that the slot is for; None means the agent's oldest task at the grant.

    """

    # Class attributes as defaults, as leases are created on the hot path.
    ticket: LeaseTicket | None = None
    task: Any = None
    """The `Task` that it was granted for; None for a slot without a task."""
    _held = False
    _outer: ownership.Claimant | None = None
    _is_entered = False
    """Whether the current code of its context runs under it."""
    _cost = 0.0
    _reserved: BudgetManager | None = None
    """The budgets that hold a reservation of the cost."""

    def __init__(self, scheduler: LeasingScheduler, agent: Agent, timeout: float | None, own: Task | None) -> None:
        self._scheduler = scheduler
        self._timeout = timeout
        self._own = own
        self.agent = agent

    @property
    def engine(self) -> Engine:
        """The engine that grants its slot."""
        return self._scheduler.resource.engine

    async def __aenter__(self) -> Task | None:
        ticket = self._create_ticket()
        ticket.asyncio_task = ref(asyncio.current_task())
        resource = self._scheduler.resource
        try:
            if self._own is not None:
                self.agent.tasks.claim(self._own, ticket)
            resource.submit_ticket(ticket)
            if ticket.state is not _GRANTED:
                ticket.admission = self._admit_ticket
                try:
                    await aio.wait_until_decided(resource.engine, ticket, find_blocked=self._find_blocked_scopes)
                finally:
                    ticket.admission = None  # it refers back to the ticket
            if resource.governor is not None:
                resource.check_grant(ticket)
        except BaseException as error:
            self._handle_rejection(error)
            raise
        task = self._begin_body(ticket)
        if task is not None and self._scheduler.on_task_started is not None:
            await self._call_started_hook(task)
        return task

    def enter_blocking(self) -> Task | None:
        """Acquire the slot as `async with` does, for code that cannot await: the thread blocks until the grant.

        `end_lease` releases it. An async `on_task_started` hook runs in an event loop of its own.
        """
        ticket = self._create_ticket()
        resource = self._scheduler.resource
        try:
            if self._own is not None:
                self.agent.tasks.claim(self._own, ticket)
            resource.submit_ticket(ticket)
            if ticket.state is not _GRANTED:
                ticket.admission = self._admit_ticket
                try:
                    threads.wait_until_decided(resource.engine, ticket)
                finally:
                    ticket.admission = None  # it refers back to the ticket
            if resource.governor is not None:
                resource.check_grant(ticket)
        except BaseException as error:
            self._handle_rejection(error)
            raise
        task = self._begin_body(ticket)
        if task is not None and self._scheduler.on_task_started is not None:
            try:
                _run_awaitable(self._scheduler.on_task_started(self.agent.agent_id, task))
            except BaseException as error:
                self.end_lease(error)
                raise
        return task

    def _begin_body(self, ticket: LeaseTicket) -> Task | None:
        self._held = True
        self._outer, self._is_entered = ownership.enter_slot(ticket), True
        task: Any
        task = self.task = ticket.work
        if task is not None and self._reserved is None:
            self._cost = task.weight
        if ticket.explain:
            self._log_grant()
        granted: Task | None = task
        return granted

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.end_lease(error) and self._scheduler.on_task_completed is not None:
            await self.call_completed_hook(None)

    def __del__(self) -> None:
        # Dropped before its end: an AcquireHandle without a release, a garbage-collected asyncio task.
        ticket = self.ticket
        if ticket is not None and not ticket.state.is_ended and ticket.state is not State.NEW:
            self._abandon_lease(ticket)

    def end_lease(self, error: BaseException | None = None) -> bool:
        """Charge the task unless it failed, complete it and release the slot. Idempotent.

        Returns:
            Whether a task was completed without an error.

        """
        ticket = self.ticket
        if ticket is None or not self._held:
            return False
        self._held = False
        self.leave_scope()
        ticket.asyncio_task = None
        scheduler, task = self._scheduler, self.task
        if isinstance(error, GeneratorExit):
            self._abandon_lease(ticket)
            return False
        logged = ticket.explain
        tick = scheduler.logical_tick if logged else 0
        engine = scheduler.resource.engine
        try:
            if task is not None:
                agent = self.agent
                if task.queue is not None:
                    agent.tasks.complete(task, agent.completed_tasks)
                if error is None:
                    scheduler.metrics.record_task_cost(agent.agent_id, self._cost)
                else:
                    agent.completed_tasks.fail()
                if self._reserved is not None:
                    self._settle_budget(spent=error is None)
        finally:
            engine.release(ticket)
            if scheduler.closed:
                scheduler.note_end()
        if logged:
            self._log_end(tick, error)
        return task is not None and error is None

    def leave_scope(self) -> None:
        """Run what follows in this context outside the slot, without releasing it."""
        ticket = self.ticket
        if self._is_entered and ticket is not None:
            self._is_entered = False
            ownership.exit_slot(ticket, self._outer)
            ticket.claim = None  # the end of the claim is not the end of the code under it

    def outlive_context(self) -> None:
        """Keep the slot from being lent after the end of the context that it was entered in.

        For a lease whose owner ends it elsewhere, or is garbage-collected, which releases it.
        """
        if self.ticket is not None:
            self.ticket.claim = None

    def end_now(self, error: BaseException | None = None) -> None:
        """Do as `end_lease`, and call the program's hook, for code that cannot await."""
        hook = self._scheduler.on_task_completed
        if self.end_lease(error) and hook is not None:
            _run_awaitable(hook(self.agent.agent_id, self.task, None))

    async def call_completed_hook(self, result: object) -> None:
        """Call the program's hook, after the release."""
        hook = self._scheduler.on_task_completed
        if hook is not None and self.task is not None:
            outcome = hook(self.agent.agent_id, self.task, result)
            if inspect.isawaitable(outcome):
                await outcome

    def _create_ticket(self) -> LeaseTicket:
        scheduler, agent, own = self._scheduler, self.agent, self._own
        tasks = agent.tasks
        binding = tasks.binding
        if binding is None:
            raise ValueError(f"Unknown agent: {agent.agent_id}")
        if scheduler.closed:
            raise ShutdownError(
                "The scheduler is shutting down", agent=agent.agent_id, resource=scheduler.resource.name
            )
        request = binding.plain_request if own is None else binding.get_request(own)
        if self._timeout is not None:
            request = request._replace(timeout=self._timeout)
        engine = binding.engine
        if engine.observed:
            request = request._replace(context=scheduler.trace())
        ticket = self.ticket = LeaseTicket(request, engine.owner)
        ticket.scheduler = scheduler
        ownership.bind_here(ticket)
        if own is None:
            ticket.backlog = tasks.backlog
        else:
            ticket.work = own
        if event_log.logger.isEnabledFor(event_log.INFO):
            ticket.explain = True
            if own is not None:
                self._log_enqueue(own)
        return ticket

    async def _call_started_hook(self, task: Task) -> None:
        hook = self._scheduler.on_task_started
        try:
            outcome = hook(self.agent.agent_id, task) if hook is not None else None
            if inspect.isawaitable(outcome):
                await outcome
        except BaseException as error:
            self.end_lease(error)
            raise

    def _handle_rejection(self, error: BaseException) -> None:
        ticket, agent = self.ticket, self.agent
        assert ticket is not None  # noqa: S101 - invariant: `_create_ticket` has run
        ticket.asyncio_task = None
        engine = self._scheduler.resource.engine
        if isinstance(error, GeneratorExit):
            self._abandon_lease(ticket)
            return
        if not ticket.state.is_ended:
            engine.cancel(ticket)
        self._settle_budget(spent=False)
        rejected: Any = self._own or (ticket.work if isinstance(error, BudgetExceededError) else None)
        if rejected is not None:
            # A task submitted with the request ends with it; a task that its budget rejects would never fit.
            agent.tasks.withdraw(rejected)
        if isinstance(error, AcquireTimeoutError) and event_log.logger.isEnabledFor(event_log.INFO):
            event_log.emit_timeout(self._scheduler.logical_tick, agent.agent_id, self._scheduler.resource.name)

    # -- callbacks while it waits ---------------------------------------------------------------------------------

    def _find_blocked_scopes(self) -> tuple[Hashable, ...]:
        return ownership.list_scopes_blocked_by_task(self._is_nested)

    def _is_nested(self, held: Ticket) -> bool:
        """Return whether a lease of this asyncio task encloses this one, so that waiting for it would be a deadlock.

        Of this API's leases only one of the same agent does: a program that requests slots for two agents in one
        asyncio task needs two slots.
        """
        if not isinstance(held, LeaseTicket):
            return True
        ticket = self.ticket
        return (
            ticket is not None
            and held.scheduler is ticket.scheduler
            and held.asyncio_task is ticket.asyncio_task
            and held.request.agent == ticket.request.agent
        )

    def _admit_ticket(self, ticket: Ticket) -> bool:
        budget = self._scheduler.budget
        if budget is None:
            return True
        request = ticket.request
        cost = request.weight / MILLI
        task: Any = ticket.work
        if task is not None:
            cost = task.weight
        limit, before = budget.get_limit(request.agent), budget.spent(request.agent)
        try:
            within = budget.reserve(request.agent, cost)
        except BudgetExceededError as error:
            error.resource = self._scheduler.resource.name
            self._log_budget(task, error.current, error.limit, "reject")
            raise
        self._cost, self._reserved = cost, budget
        if not within:
            self._log_budget(task, before, limit, budget.on_exceeded)
        return True

    def _settle_budget(self, *, spent: bool) -> None:
        budget, self._reserved = self._reserved, None
        if budget is not None:
            budget.settle(self.agent.agent_id, self._cost, spent=spent)

    def _abandon_lease(self, ticket: Ticket) -> None:
        """End it without a lock: the caller may be the garbage collector, inside any operation."""
        self._scheduler.resource.engine.abandon_ticket(ticket)
        if self._reserved is not None:
            self._reserved.give_back_later(self.agent.agent_id, self._cost)
            self._reserved = None
        if self._own is not None:
            self.agent.tasks.withdraw_later(self._own)

    # -- the event log --------------------------------------------------------------------------------------------

    def _log_enqueue(self, task: Task) -> None:
        scheduler = self._scheduler
        depth = (self.agent.tasks.backlog.weight + task.milli) / MILLI
        event_log.emit_enqueue(scheduler.logical_tick, self.agent.agent_id, task, depth, scheduler.resource.name)

    def _log_grant(self) -> None:
        scheduler, ticket, task = self._scheduler, self.ticket, self.task
        grant = None if ticket is None else ticket.grant
        agent_id = self.agent.agent_id
        if grant is None or grant.reason is GrantReason.FREE:
            # Nothing was compared, as no other agent waited: compute the load of a single agent.
            tick, alpha = scheduler.logical_tick, scheduler.alpha
            depth = self._cost + self.agent.tasks.backlog.weight / MILLI
            age = 0 if task is None else task.age
            score = compute_load(alpha, depth, depth, age, age)
        else:
            score, depth, age, tick = grant.score, grant.queue_weight / MILLI, grant.queue_age, grant.tick
        budget = scheduler.budget
        event_log.emit_grant(
            tick,
            agent_id,
            task,
            score,
            depth,
            float(age),
            scheduler.resource.name,
            scheduler.resource.utilization,
            scheduler.metrics.agent_cost(agent_id),
            None if budget is None else budget.remaining(agent_id),
        )

    def _log_end(self, tick: int, error: BaseException | None) -> None:
        resource, agent_id = self._scheduler.resource, self.agent.agent_id
        if error is not None:
            event_log.emit_error(tick, agent_id, repr(error), resource.name)
        event_log.emit_release(tick, agent_id, self.task, resource.name, resource.utilization)

    def _log_budget(self, task: Any, current: float | None, limit: float | None, action: str) -> None:
        if task is not None and event_log.logger.isEnabledFor(event_log.WARNING):
            scheduler, agent_id = self._scheduler, self.agent.agent_id
            current = 0.0 if current is None else current
            event_log.emit_budget_exceeded(
                scheduler.logical_tick, agent_id, task, current, limit, action, scheduler.resource.name
            )


_hook_tasks: set[asyncio.Future[object]] = set()
"""Async hooks under way: an event loop keeps no strong reference to its tasks."""


def _run_awaitable(outcome: object) -> None:
    """Run what an async hook returned: as a task of the running loop, else to its end. No-op for any other value."""
    if not inspect.isawaitable(outcome):
        return

    async def wait() -> object:
        return await outcome

    if asyncio._get_running_loop() is None:
        asyncio.run(wait())
    else:
        task = asyncio.ensure_future(wait())
        _hook_tasks.add(task)
        task.add_done_callback(_hook_tasks.discard)
