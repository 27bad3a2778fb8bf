"""The adapter for CrewAI: a slot for a whole crew, for each step of it, or for each call of a model by its agents.

result = await adapter.run_crew(crew)                  # one slot, held while the crew works
Crew(..., step_callback=adapter.step_callback)         # with run_crew: other agents get the slot between two steps
with adapter.schedule_steps(): crew.kickoff()          # a slot for each call of a model, by the agent's role
"""

import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from loco_otel._core.ticket import State
from loco_otel._waiting import ownership, threads
from loco_otel.compat.adapters.frameworks import import_framework
from loco_otel.compat.adapters.open_calls import OpenCalls
from loco_otel.compat.async_scheduler import AsyncLOCOScheduler
from loco_otel.compat.functions import run_under_lease
from loco_otel.compat.lease import LeaseTicket
from loco_otel.compat.task import Task

DEFAULT_ROLE_WEIGHTS = {"researcher": 3.0, "writer": 2.0, "reviewer": 2.0, "analyst": 3.0, "manager": 1.0}
"""The weight of a step by the agent's role, compared in lower case."""


class CrewAIAdapter:
    """Schedules the work of crews. Several crews may run at once.

    Args:
        scheduler: the scheduler of the slots.
        role_weights: weights by role, beside `DEFAULT_ROLE_WEIGHTS`.
        default_weight: of all other roles.

    """

    def __init__(
        self,
        scheduler: AsyncLOCOScheduler,
        role_weights: Mapping[str, float] | None = None,
        default_weight: float = 2.0,
    ) -> None:
        self._scheduler = scheduler
        self._weights = {
            **DEFAULT_ROLE_WEIGHTS,
            **{role.strip().lower(): weight for role, weight in (role_weights or {}).items()},
        }
        self._default_weight = default_weight
        self._steps = OpenCalls(scheduler)

    async def before_step(self, agent_role: str, role: str | None = None) -> None:
        """Acquire the slot of a step; `after_step` releases it.

        Args:
            agent_role: the agent; registered if unknown.
            role: the role that determines the weight; None means that `agent_role` is one.

        Raises:
            AcquireRejectedError: the request was rejected.

        """
        await self._steps.begin_call(agent_role, agent_role, self._make_task(role or agent_role))

    async def after_step(self, agent_role: str, role: str | None = None) -> None:  # noqa: ARG002 - as in `before_step`
        """Release the slot of an agent's newest step. No-op if it has none."""
        self._steps.end_call(agent_role)

    async def run_crew(
        self,
        crew: Any,
        crew_id: str = "crew",
        weight: float = 3.0,
        *,
        task_descriptions: Sequence[str] | None = None,
        **kickoff_kwargs: Any,
    ) -> Any:
        """Run a crew under one slot, and return its output. The crew works in a thread.

        Calls that its agents make by patched SDKs run under this slot.

        Args:
            crew: a `crewai.Crew`.
            crew_id: the agent that the crew is to the scheduler.
            weight: the weight of the run.
            task_descriptions: the tasks of this run, in place of the crew's own, which are unchanged. Each is for the
                agent of the crew's task at the same position, else for the crew's agents in turn.
            kickoff_kwargs: arguments of the crew's `kickoff`, such as `inputs`.

        Raises:
            ImportError: `task_descriptions` are given, and crewai is not installed.
            AcquireRejectedError: the request was rejected, and the crew did not run.

        """
        if task_descriptions is not None:
            crew = _copy_crew(crew, task_descriptions)
        lease = self._scheduler.hold(crew_id, Task(weight=weight, task_type="crewai:crew"))

        def kickoff() -> Any:
            return crew.kickoff(**kickoff_kwargs)

        return await run_under_lease(lease, kickoff)

    def step_callback(self, step: object = None) -> None:  # noqa: ARG002 - CrewAI's
        """Let other agents have the slot between two steps of a crew: its `step_callback` or `task_callback`.

        The crew requests the slot again, and continues when it is granted. No-op outside `run_crew`.

        Raises:
            ShutdownError: the scheduler is shutting down.
            StoppedError: the crew was stopped, as by `loco_otel.stop(agent=crew_id)`.

        """
        ticket = ownership.current_ticket()
        if not isinstance(ticket, LeaseTicket) or ticket.scheduler is not self._scheduler:
            return
        engine = self._scheduler.resource.engine
        engine.suspend_ticket(ticket)
        engine.resume_ticket(ticket)
        if ticket.state is not State.GRANTED:
            threads.wait_until_decided(engine, ticket)
        self._scheduler.resource.check_grant(ticket)

    @contextmanager
    def schedule_steps(self) -> Iterator[None]:
        """Hold a slot for each call of a model, of all crews that run in the body, under the agent's role.

        Raises:
            ImportError: crewai is not installed.

        """
        hooks = import_framework("crewai.hooks", "crewai", "CrewAIAdapter.schedule_steps")
        hooks.register_before_llm_call_hook(self.before_llm_call)
        hooks.register_after_llm_call_hook(self.after_llm_call)
        try:
            yield
        finally:
            hooks.unregister_before_llm_call_hook(self.before_llm_call)
            hooks.unregister_after_llm_call_hook(self.after_llm_call)

    def before_llm_call(self, context: Any) -> None:
        """Acquire the slot of a model's call: CrewAI's hook before it. No-op under a slot that is held already.

        Raises:
            AcquireRejectedError: the request was rejected.

        """
        key = _make_key(context)
        # CrewAI calls no hook after a call that failed: the next one of the same executor ends it.
        self._steps.end_call(key, error=RuntimeError("the call of the model has failed"))
        if ownership.current_ticket() is not None:
            return
        role = str(getattr(context.agent, "role", None) or "crewai").strip()
        # The executor is destroyed when its agent has ended, also by an error.
        self._steps.begin_call_blocking(key, role, self._make_task(role), owner=context.executor)

    def after_llm_call(self, context: Any) -> None:
        """Release the slot of a model's call: CrewAI's hook after it."""
        self._steps.end_call(_make_key(context))

    def _make_task(self, role: str) -> Task:
        weight = self._weights.get(role.strip().lower(), self._default_weight)
        return Task(weight=weight, task_type=f"crewai:{role}")


def _make_key(context: Any) -> Hashable:
    return (threading.get_ident(), id(context.executor or context.llm))


def _copy_crew(crew: Any, descriptions: Sequence[str]) -> Any:
    """Return a copy of a crew with other tasks."""
    crewai = import_framework("crewai", "crewai", "CrewAIAdapter.run_crew with task_descriptions")
    copy = crew.copy()
    tasks = []
    for position, description in enumerate(descriptions):
        model = copy.tasks[position] if position < len(copy.tasks) else None
        agent = model.agent if model is not None else copy.agents[position % len(copy.agents)]
        expected = "A complete answer." if model is None else model.expected_output
        tasks.append(crewai.Task(description=description, expected_output=expected, agent=agent))
    copy.tasks = tasks
    return copy
