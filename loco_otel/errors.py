"""What loco-otel may raise into a program: a decided rejection, or a setting that cannot be used. Nothing else."""

from typing import Self


class LocoError(Exception):
    """Root of all errors that loco-otel raises."""


class ConfigurationError(LocoError, ValueError):
    """A setting is wrong; the message names the key, the value and what is allowed."""


class AcquireRejectedError(LocoError):
    """The scheduler decided that a request may not go.

    Attributes:
        agent: who asked.
        resource: what was asked for.
        waited: seconds spent waiting.

    """

    def __init__(self, message: str = "", *, agent: str = "", resource: str = "", waited: float = 0.0) -> None:
        super().__init__(message)
        self.agent = agent
        self.resource = resource
        self.waited = waited


class AcquireTimeoutError(AcquireRejectedError, TimeoutError):
    """No slot came free within the time allowed."""


class BackpressureError(AcquireRejectedError):
    """Too many requests wait already."""


class ShutdownError(AcquireRejectedError):
    """The scheduler is shutting down and takes no more requests."""


class BudgetExceededError(AcquireRejectedError):
    """The agent's budget is used up.

    Attributes:
        agent_id: whose budget.
        current: what is spent and reserved; None where it is not known here.
        limit: what may be spent; None where it is not known here.
        task_cost: what was asked for.

    """

    def __init__(
        self, agent_id: str, current: float | None, limit: float | None, task_cost: float, *, resource: str = ""
    ) -> None:
        figures = "" if limit is None else f": current={current} + task={task_cost} > limit={limit}"
        super().__init__(f"Agent {agent_id!r} would exceed its budget{figures}", agent=agent_id, resource=resource)
        self.agent_id = agent_id
        self.current = current
        self.limit = limit
        self.task_cost = task_cost

    def __reduce__(self) -> tuple[type[Self], tuple[str, float | None, float | None, float]]:
        return type(self), (self.agent_id, self.current, self.limit, self.task_cost)


class LedgerError(LocoError):
    """The file that keeps the budgets can't be used; the message names it and says why."""
