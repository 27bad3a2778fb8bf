"""The exceptions that loco-otel raises into a program: deliberate rejections and unusable settings, nothing else."""

from datetime import UTC, datetime
from functools import partial
from typing import Self

from loco_otel.money import BudgetStatus, Period, Scope


class LocoError(Exception):
    """Root of all errors that loco-otel raises.

    Example:
        >>> issubclass(ConfigurationError, LocoError)
        True

    """


class ConfigurationError(LocoError, ValueError):
    """A setting is invalid. The message names the key, the value and the allowed values.

    Example:
        >>> try:
        ...     raise ConfigurationError('LOCO_CAPACITY=0: must be at least 1')
        ... except ValueError as error:
        ...     print(error)
        LOCO_CAPACITY=0: must be at least 1

    """


class AcquireRejectedError(LocoError):
    """The scheduler rejected a request.

    Attributes:
        agent: the agent of the request.
        resource: the requested resource.
        waited: seconds spent waiting.

    Example:
        >>> error = AcquireRejectedError('no slot', agent='b', resource='llm_api', waited=0.5)
        >>> error.agent, error.waited
        ('b', 0.5)

    """

    def __init__(self, message: str = "", *, agent: str = "", resource: str = "", waited: float = 0.0) -> None:
        super().__init__(message)
        self.agent = agent
        self.resource = resource
        self.waited = waited


class AcquireTimeoutError(AcquireRejectedError, TimeoutError):
    """No slot became free within the timeout.

    Example:
        >>> issubclass(AcquireTimeoutError, TimeoutError)
        True

    """


class DeadlineExceededError(AcquireRejectedError):
    """The call cannot get a slot by the deadline of `as_agent`. Nothing was sent.

    Raised at once where that is known already, else at the deadline.

    Example:
        >>> import loco_otel
        >>> try:
        ...     with loco_otel.as_agent(deadline=0), loco_otel.slot('analyst'):
        ...         pass
        ... except DeadlineExceededError as error:
        ...     print(error)
        'analyst' cannot get a slot of 'llm_api' by its deadline (as_agent(deadline=...)); it waited 0 s

    """


class BackpressureError(AcquireRejectedError):
    """Too many requests are already waiting.

    Example:
        >>> issubclass(BackpressureError, AcquireRejectedError)
        True

    """


class ShutdownError(AcquireRejectedError):
    """The scheduler is shutting down and accepts no requests.

    Example:
        >>> issubclass(ShutdownError, AcquireRejectedError)
        True

    """


class BudgetExceededError(AcquireRejectedError):
    """A budget has no room for a call or a task. Nothing was sent.

    Amounts are in the budget's unit.

    Attributes:
        agent_id: the agent of the request.
        current: the amount spent and reserved; None if unknown.
        limit: the budget's limit; None if unknown.
        task_cost: the estimated cost of the call.
        scope: the kind of `key`: `agent`, `tenant`, `team`, `model`, `run`, `session`, `workflow` or `all`; None for a
            budget of a `BudgetManager`.
        key: the name of that; `*` for all.
        unit: `usd`, `weight`, `tokens` or `calls`.
        period: the budget's period: `minute`, `hour`, `day`, `month` or `total`.
        spent: the amount spent; None if unknown.
        reserved: the estimated cost of calls in flight.
        resets_at: the time at which the budget resets, in seconds since the epoch; None if it never does.
        standing: the budget's status, which holds these fields.

    Example:
        >>> print(BudgetExceededError('b', 4.5, 5.0, 1.0))
        Agent 'b' would exceed its budget: current=4.5 + task=1.0 > limit=5.0

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
        super().__init__(
            _describe_budget(agent_id, current, limit, task_cost, standing), agent=agent_id, resource=resource
        )
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
        """The estimated cost of the call; equal to `task_cost`."""
        return self.task_cost

    @classmethod
    def of(cls, standing: BudgetStatus, agent: str, estimate: int, *, resource: str = "") -> Self:
        """Create the error for a call without room in an account; `estimate` is in the account's integer unit."""
        amount = standing.key.unit.amount
        current = amount(standing.spent + standing.reserved)
        return cls(agent, current, amount(standing.limit), amount(estimate), resource=resource, standing=standing)

    def __reduce__(self) -> tuple[partial[Self], tuple[str, float | None, float | None, float], dict[str, float]]:
        again = partial(type(self), resource=self.resource, standing=self.standing)
        return again, (self.agent_id, self.current, self.limit, self.task_cost), {"waited": self.waited}


def _describe_budget(
    agent: str, current: float | None, limit: float | None, cost: float, standing: BudgetStatus | None
) -> str:
    if standing is None:
        figures = "" if limit is None else f": current={current} + task={cost} > limit={limit}"
        return f"Agent {agent!r} would exceed its budget{figures}"
    scope, key, unit, period = standing.key
    whose = "all" if scope is Scope.ALL else f"{scope} {key!r}"
    during = "" if period is Period.TOTAL else f" a {period}"
    reset = ""
    is_of_run = scope is Scope.RUN
    if standing.resets_at is not None and not (is_of_run and period is Period.TOTAL):
        reset = f"; it resets at {datetime.fromtimestamp(standing.resets_at, UTC).isoformat(timespec='seconds')}"
    return (
        f"A call of {agent!r} is estimated at {unit.tell(cost)}, and the budget of {whose} has no room for it:"
        f" {unit.tell(unit.amount(standing.spent))} spent and {unit.tell(unit.amount(standing.reserved))} reserved"
        f" of {unit.tell(unit.amount(standing.limit))}{during}{reset}; the call was not sent"
        + (
            " (LOCO_RUN_LIMITS or a budget of runs sets the limit)"
            if is_of_run
            else " (LOCO_BUDGETS sets the limit, LOCO_BUDGET_ON_EXCEEDED the action)"
        )
    )


class RunLimitError(AcquireRejectedError):
    """A run exceeds a limit that is no budget: its seconds, or the repeats of a tool call. Nothing was sent.

    Attributes:
        run: the run's id.
        limit: the name of the limit, as in `LOCO_RUN_LIMITS`: `seconds` or `repeats`.

    Example:
        >>> error = RunLimitError('too long', run='r-1', limit='seconds')
        >>> error.run, error.limit
        ('r-1', 'seconds')

    """

    def __init__(
        self, message: str = "", *, run: str = "", limit: str = "", agent: str = "", resource: str = ""
    ) -> None:
        super().__init__(message, agent=agent, resource=resource)
        self.run = run
        self.limit = limit


class StoppedError(AcquireRejectedError):
    """The run, session, agent or tenant of a call was stopped. The call was not sent, or its stream was closed.

    Attributes:
        scope: `run`, `session`, `agent`, `tenant`, or `all`.
        key: the id or name that was stopped; `*` for all.

    Example:
        >>> error = StoppedError('stopped', scope='run', key='r-1')
        >>> error.scope, error.key
        ('run', 'r-1')

    """

    def __init__(
        self, message: str = "", *, scope: str = "", key: str = "", agent: str = "", resource: str = ""
    ) -> None:
        super().__init__(message, agent=agent, resource=resource)
        self.scope = scope
        self.key = key


class LedgerError(AcquireRejectedError):
    """The ledger is unavailable. The message names its file or server, and the cause.

    Example:
        >>> issubclass(LedgerError, AcquireRejectedError)
        True

    """
