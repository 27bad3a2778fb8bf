"""For tests: a clock that goes on only when told to, a listener that keeps what it is told, and the seed's mocks.

Nothing here sleeps or starts a thread, so that a test of a timeout takes no time and always gives the same result.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from loco_otel.compat.agent import Agent
from loco_otel.compat.metrics import jains_fairness
from loco_otel.compat.resource import SharedResource
from loco_otel.compat.scheduler import LOCOScheduler, StepResult
from loco_otel.compat.task import Task
from loco_otel.events import Event

_Kind = TypeVar("_Kind", bound=Event)


class ManualClock:
    """A `loco_otel.clock.Clock` that stands still until `advance`.

    Args:
        start: what it shows at first.

    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def __call__(self) -> float:
        """Tell the time in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Go on by so many seconds.

        Raises:
            ValueError: the clock would go back.

        """
        if seconds < 0:
            raise ValueError(f"a clock never goes back, not even by {-seconds} s")
        self._now += seconds


class RecordingListener:
    """A `loco_otel.events.Listener` that keeps all events, in the order in which it was told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event, /) -> None:
        """Keep one event."""
        self.events.append(event)

    def of(self, kind: type[_Kind]) -> list[_Kind]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


def mock_resource(name: str = "test", capacity: int = 1) -> SharedResource:
    """Make a resource."""
    return SharedResource(name, capacity)


def mock_agent(agent_id: str, pending_tasks: int = 0, task_weight: float = 1.0, agent_type: str = "default") -> Agent:
    """Make an agent that has tasks `<agent_id>-t0`, `-t1` and so on queued."""
    tasks = [Task(f"{agent_id}-t{number}", task_weight) for number in range(pending_tasks)]
    return Agent(agent_id, agent_type=agent_type, tasks=tasks)


@dataclass(slots=True)
class RunResult:
    """What the steps of a run did."""

    steps: list[StepResult] = field(default_factory=list)
    total_ticks: int = 0

    @property
    def service_order(self) -> list[str]:
        """The agents in the order in which they were served."""
        return [step.selected_agent.agent_id for step in self.steps if step.selected_agent is not None]

    @property
    def service_counts(self) -> dict[str, int]:
        """How often each agent was served."""
        return dict(Counter(self.service_order))


class SyncTestScheduler:
    """The load rule step by step, without an event loop; see `LOCOScheduler`.

    Args:
        agents: who has tasks.
        alpha: share of Q in the load, from 0 to 1.
        optimize_for: a word for alpha.
        seed: of the draws between equals.

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
        """How many steps were made."""
        return self._scheduler.tick

    def get_agent(self, agent_id: str) -> Agent:
        """Return an agent.

        Raises:
            ValueError: there is none of this name.

        """
        return self._scheduler.get_agent(agent_id)

    def add_tasks(self, agent_id: str, tasks: Iterable[Task]) -> None:
        """Queue tasks of an agent."""
        self.get_agent(agent_id).tasks.extend(tasks)

    def step(self, arrivals: Mapping[str, Iterable[Task]] | None = None) -> StepResult:
        """Let tasks arrive, serve one, and age the rest by a tick."""
        return self._scheduler._step(arrivals)

    def run_all(self) -> RunResult:
        """Step until nothing is queued."""
        steps = []
        while self.total_tasks_remaining():
            steps.append(self.step())
        return RunResult(steps, len(steps))

    def total_tasks_remaining(self) -> int:
        """Count the tasks that are queued."""
        return self._scheduler.total_tasks_remaining()

    def mean_wait_time(self, agent_id: str) -> float:
        """Return the mean age at which an agent's tasks were served; 0.0 before the first."""
        return self._scheduler.mean_wait_time(agent_id)

    def jains_fairness(self) -> float:
        """Return Jain's index of the agents' mean waits, of those that waited at all."""
        return jains_fairness([self.mean_wait_time(agent_id) for agent_id in self.agents])
