"""What loco-otel may raise into a program: a decided rejection, or a setting that cannot be used. Nothing else."""

from datetime import UTC, datetime
from functools import partial
from typing import Self

from loco_otel.money import BudgetStatus, Period, Scope


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
    """The budget has no room for a call or a task: nothing was sent.

    Amounts are in USD, or in weights where the budget counts those.

    Attributes:
        agent_id: who asked.
        current: what is spent and reserved; None where it is not known here.
        limit: what may be spent; None where it is not known here.
        task_cost: what was asked for, by estimate.
        scope: whose budget has no room, with `key`: `agent`, `tenant`, `team`, `model` or `all`; None where it is one
            of a `BudgetManager`.
        key: the agent, tenant, team or model; `*` for all.
        unit: `usd` or `weight`.
        period: how long it is for: `minute`, `hour`, `day`, `month` or `total`.
        spent: what is spent; None where it is not known here.
        reserved: what calls under way are estimated to take.
        resets_at: when the budget begins anew, in seconds since the epoch; None for never.
        standing: all of that as one value.

    """

    def __init__(
        self,
        agent_id: str,
        current: float | None,
        limit: float | None,
        task_cost: float,
        *,
        resource: str = "",
        standing: BudgetStatus | None = None,
    ) -> None:
        super().__init__(_refusal(agent_id, current, limit, task_cost, standing), agent=agent_id, resource=resource)
        self.agent_id = agent_id
        self.current = current
        self.limit = limit
        self.task_cost = task_cost
        self.standing = standing
        self.spent: float | None = None
        self.reserved: float | None = None
        self.resets_at: float | None = None
        self.scope: str | None = None
        self.key: str | None = None
        self.unit: str | None = None
        self.period: str | None = None
        if standing is not None:
            self.scope, self.key, self.unit, self.period = map(str, standing.key)
            self.spent = standing.key.unit.amount(standing.spent)
            self.reserved = standing.key.unit.amount(standing.reserved)
            self.resets_at = standing.resets_at

    @property
    def estimate(self) -> float:
        """What the call was estimated to take; the same as `task_cost`."""
        return self.task_cost

    @classmethod
    def of(cls, standing: BudgetStatus, agent: str, estimate: int, *, resource: str = "") -> Self:
        """Make the error of a call that an account has no room for; `estimate` is in the account's integers."""
        amount = standing.key.unit.amount
        current = amount(standing.spent + standing.reserved)
        return cls(agent, current, amount(standing.limit), amount(estimate), resource=resource, standing=standing)

    def __reduce__(self) -> tuple[partial[Self], tuple[str, float | None, float | None, float], dict[str, float]]:
        again = partial(type(self), resource=self.resource, standing=self.standing)
        return again, (self.agent_id, self.current, self.limit, self.task_cost), {"waited": self.waited}


def _refusal(agent: str, current: float | None, limit: float | None, cost: float, standing: BudgetStatus | None) -> str:
    if standing is None:
        figures = "" if limit is None else f": current={current} + task={cost} > limit={limit}"
        return f"Agent {agent!r} would exceed its budget{figures}"
    scope, key, unit, period = standing.key
    whose = "all" if scope is Scope.ALL else f"{scope} {key!r}"
    during = "" if period is Period.TOTAL else f" a {period}"
    anew = ""
    if standing.resets_at is not None:
        anew = f"; it begins anew at {datetime.fromtimestamp(standing.resets_at, UTC).isoformat(timespec='seconds')}"
    return (
        f"A call of {agent!r} is estimated at {unit.tell(cost)}, and the budget of {whose} has no room for it:"
        f" {unit.tell(unit.amount(standing.spent))} spent and {unit.tell(unit.amount(standing.reserved))} reserved"
        f" of {unit.tell(unit.amount(standing.limit))}{during}{anew}"
    )


class LedgerError(AcquireRejectedError):
    """The file that keeps the budgets can't be used; the message names it and says why."""
