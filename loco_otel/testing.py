"""Test helpers: a manual clock, a recording listener, and loco-agent's mocks.

Nothing here sleeps or starts a thread, so tests of timeouts are immediate and deterministic.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from loco_otel._runtime import process
from loco_otel.compat.agent import Agent
from loco_otel.compat.metrics import jains_fairness
from loco_otel.compat.resource import SharedResource
from loco_otel.compat.scheduler import LOCOScheduler, StepResult
from loco_otel.compat.task import Task
from loco_otel.events import Event

_FLUSH_TRIES = 10
"""Flushes of up to 1 s after which events are taken as they are."""

_Kind = TypeVar("_Kind", bound=Event)


class ManualClock:
    """A `loco_otel.clock.Clock` that changes only with `advance`.

    Args:
        start: the initial time in seconds.

    Example:
        >>> clock = ManualClock()
        >>> clock.advance(2.5)
        >>> clock()
        2.5

    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock forward by some seconds.

        Raises:
            ValueError: the number is negative.

        """
        if seconds < 0:
            raise ValueError(f"a clock never goes back, not even by {-seconds} s")
        self._now += seconds


class RecordingListener:
    """A `loco_otel.events.Listener` that stores all events in their order.

    The scheduler delivers events after the operation that they report, some of them in a background thread. Reading
    `events` or calling `of` first delivers those of this process's scheduler, so a test needs no wait.

    Example:
        >>> from loco_otel.events import Bypassed, BypassReason
        >>> listener = RecordingListener()
        >>> listener(Bypassed(0.5, BypassReason.INTERNAL_ERROR))
        >>> len(listener.of(Bypassed))
        1

    """

    def __init__(self) -> None:
        self._events: list[Event] = []

    def __call__(self, event: Event, /) -> None:
        """Store one event."""
        self._events.append(event)

    @property
    def events(self) -> list[Event]:
        """All stored events."""
        _deliver_events()
        return self._events

    def of(self, kind: type[_Kind]) -> list[_Kind]:
        """Return the stored events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


def _deliver_events() -> None:
    """Deliver the pending events of this process's scheduler, if it has one."""
    runtime = process.get_existing_runtime()
    tries = 0
    while runtime is not None and not runtime.engine.flush() and tries < _FLUSH_TRIES:
        tries += 1


def mock_resource(name: str = "test", capacity: int = 1) -> SharedResource:
    """Create a resource.

    Example:
        >>> mock_resource(capacity=2).capacity
        2

    """
    return SharedResource(name, capacity)


def mock_agent(agent_id: str, pending_tasks: int = 0, task_weight: float = 1.0, agent_type: str = "default") -> Agent:
    """Create an agent with queued tasks `<agent_id>-t0`, `-t1` and so on.

    Example:
        >>> [task.task_id for task in mock_agent('a', pending_tasks=2).tasks]
        ['a-t0', 'a-t1']

    """
    tasks = [Task(f"{agent_id}-t{number}", task_weight) for number in range(pending_tasks)]
    return Agent(agent_id, agent_type=agent_type, tasks=tasks)


@dataclass(slots=True)
class RunResult:
    """The results of a run's steps.

    Example:
        >>> SyncTestScheduler([mock_agent('a', pending_tasks=2)]).run_all().service_counts
        {'a': 2}

    """

    steps: list[StepResult] = field(default_factory=list)
    total_ticks: int = 0

    @property
    def service_order(self) -> list[str]:
        """The agents in the order in which they were served."""
        return [step.selected_agent.agent_id for step in self.steps if step.selected_agent is not None]

    @property
    def service_counts(self) -> dict[str, int]:
        """The number of times that each agent was served."""
        return dict(Counter(self.service_order))


class SyncTestScheduler:
    """Runs the load rule step by step, without an event loop; see `LOCOScheduler`.

    Args:
        agents: the agents with their tasks.
        alpha: share of Q in the load, from 0 to 1.
        optimize_for: the name of an alpha.
        seed: the seed of random choices between equal scores.

    Example:
        >>> scheduler = SyncTestScheduler([mock_agent('a', 1), mock_agent('b', 1)])
        >>> sorted(scheduler.run_all().service_order)
        ['a', 'b']

    """

    def __init__(
        self,
        agents: Iterable[Agent],
        *,
        alpha: float | None = None,
        optimize_for: str | None = None,
        seed: int = 42,
    ) -> None:
        self._scheduler = LOCOScheduler(agents, alpha=alpha, optimize_for=optimize_for, seed=seed)

    @property
    def agents(self) -> dict[str, Agent]:
        """All agents by name."""
        return self._scheduler.agents

    @property
    def tick(self) -> int:
        """The number of steps made."""
        return self._scheduler.tick

    def get_agent(self, agent_id: str) -> Agent:
        """Return an agent.

        Raises:
            ValueError: no agent has this name.

        """
        return self._scheduler.get_agent(agent_id)

    def add_tasks(self, agent_id: str, tasks: Iterable[Task]) -> None:
        """Queue tasks of an agent."""
        self.get_agent(agent_id).tasks.extend(tasks)

    def step(self, arrivals: Mapping[str, Iterable[Task]] | None = None) -> StepResult:
        """Queue arriving tasks, serve one task, and age the rest by one tick."""
        return self._scheduler._step(arrivals)

    def run_all(self) -> RunResult:
        """Step until no task is queued."""
        steps = []
        while self.total_tasks_remaining():
            steps.append(self.step())
        return RunResult(steps, len(steps))

    def total_tasks_remaining(self) -> int:
        """Return the number of queued tasks."""
        return self._scheduler.total_tasks_remaining()

    def mean_wait_time(self, agent_id: str) -> float:
        """Return the mean age at which an agent's tasks were served; 0.0 before the first."""
        return self._scheduler.mean_wait_time(agent_id)

    def jains_fairness(self) -> float:
        """Return Jain's index of the agents' mean waits."""
        return jains_fairness([self.mean_wait_time(agent_id) for agent_id in self.agents])
