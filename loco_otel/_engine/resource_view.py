"""One resource of an engine, for code that reads its state, changes its limits, or queues work apart from waiters."""

from collections.abc import Callable
from math import inf
from typing import Protocol, TypeVar

from loco_otel._core.alpha_tuner import AlphaTuner
from loco_otel._core.backlog import Backlog
from loco_otel._core.policies.registry import make_policy_factory
from loco_otel._core.scheduler import Scheduler

_Result = TypeVar("_Result")


class CoreAccess(Protocol):
    """Runs operations on the core under the engine's lock."""

    def update_core(self, change: Callable[[Scheduler, float], _Result]) -> _Result:
        """Run a change of limits or policy."""

    def update_loads(self, change: Callable[..., _Result], *args: object) -> _Result:
        """Run a change of backlogs."""


class ResourceView:
    """Reads and changes one resource. Thread-safe. Properties take no lock, so their values may be outdated at once.

    Args:
        engine: runs the changes.
        core: the scheduler behind `engine`.
        name: the resource.

    Raises:
        KeyError: the engine has no such resource.

    """

    __slots__ = ("_engine", "_pool", "_queue_set", "_resources", "name", "update_loads")

    def __init__(self, engine: CoreAccess, core: Scheduler, name: str) -> None:
        self.name = name
        self._engine = engine
        self._resources = core.resources
        self._pool = core.resources.pools[name]
        self._queue_set = core.resources.get_queue_set((name,))
        self.update_loads = engine.update_loads
        """Runs a change of backlogs as one operation."""

    @property
    def capacity(self) -> int | None:
        """Slots, wherever they are granted; None is unlimited."""
        capacity = self._pool.total_capacity
        return None if capacity == inf else int(capacity)

    @property
    def used(self) -> int:
        """Slots in use."""
        return self._pool.used

    @property
    def waiting(self) -> int:
        """Requests that wait for this resource, alone or with others."""
        return sum(queue_set.waiting for queue_set in self._resources.list_queue_sets(self._pool))

    @property
    def max_waiters(self) -> int | None:
        """The maximum of requests that wait for this resource alone; None is no maximum."""
        return self._queue_set.max_waiters

    @property
    def has_waiters(self) -> bool:
        """Whether requests wait for this resource alone."""
        return self._queue_set.waiting > 0

    @property
    def tick(self) -> int:
        """Number of releases."""
        return self._queue_set.tick

    @property
    def alpha(self) -> float:
        """Share of the queued weight in the score; 0 for a policy without a score."""
        return self._queue_set.policy.alpha

    def list_holders(self) -> list[str]:
        """Return the agent of each lease."""
        return [lease.request.agent for lease in tuple(self._pool.leases.values())]

    def set_capacity(self, capacity: int | None) -> None:
        """Change the capacity: a higher one grants at once, a lower one applies as leases end."""
        self._engine.update_core(lambda core, now: core.set_capacity(self.name, capacity, now))

    def set_max_waiters(self, maximum: int | None) -> None:
        """Change the maximum of requests that wait for this resource alone; those that wait already stay."""
        self._queue_set.max_waiters = maximum

    def set_policy(
        self, policy: str, *, alpha: float, draw: Callable[[], float], max_wait_ticks: int, tuner: AlphaTuner | None
    ) -> None:
        """Change how requests for this resource alone are ordered; each keeps its place in its queue.

        Args:
            policy: `load`, `fair` or `fifo`.
            alpha: share of the queued weight in the score of `load`.
            draw: returns a number in [0, 1), to break ties.
            max_wait_ticks: the guard; 0 disables it.
            tuner: adapts alpha; None keeps it constant.

        """
        make_policy = make_policy_factory(policy, alpha=alpha, shares={}, draw=draw)

        def change(_: Scheduler, __: float) -> None:
            self._queue_set.max_wait_ticks = max_wait_ticks
            self._queue_set.tuner = tuner
            self._queue_set.replace_policy(make_policy)

        self._engine.update_core(change)

    def tune_alpha(self, tuner: AlphaTuner) -> None:
        """Set alpha to what a tuner computes from the queues and backlogs."""
        self._engine.update_core(lambda _, __: self._queue_set.tune_alpha(tuner))

    def set_backlog(self, agent: str, backlog: Backlog, change: Callable[[], object]) -> None:
        """Run a change, and count an agent's backlog from then on, in one operation."""

        def operation() -> None:
            change()
            self._queue_set.set_backlog(agent, backlog)

        self.update_loads(operation)

    def remove_backlog(self, agent: str, backlog: Backlog, change: Callable[[], object]) -> None:
        """Stop counting an agent's backlog, unless another was set since, and run a change, in one operation."""

        def operation() -> None:
            if self._queue_set.backlogs.get(agent) is backlog:
                self._queue_set.set_backlog(agent, None)
            change()

        self.update_loads(operation)

    def refresh_agent(self, agent: str) -> None:
        """Update the policy after a change of an agent's backlog. To be called within `update_loads`."""
        if self._queue_set.waiting:
            self._queue_set.refresh_agent(agent)
