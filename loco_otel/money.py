"""Money: what models cost and what may be spent, as the settings say it and as all layers share it.

Amounts are integers: micro-USD (a millionth of a dollar), or milli-weights. Times are seconds since the epoch.
"""

from datetime import datetime, timedelta, tzinfo
from enum import StrEnum
from typing import NamedTuple

MICRO = 1_000_000
"""Micro-USD in one USD."""
_MILLI_PER_WEIGHT = 1000
"""Milli-weights in one unit of weight."""


class Unit(StrEnum):
    """What a budget counts."""

    USD = "usd"
    """Micro-USD."""
    WEIGHT = "weight"
    """Milli-weights."""

    def amount(self, integer: int) -> float:
        """Return what is counted in integers as USD or weights."""
        return integer / (MICRO if self is Unit.USD else _MILLI_PER_WEIGHT)

    def tell(self, amount: float) -> str:
        """Write USD or weights for people: $5.00, $0.000123, 12.5 weight."""
        if self is Unit.WEIGHT:
            return f"{amount:.10g} weight"
        exact = f"{amount:.6f}"
        return "$" + (exact[:-4] if exact.endswith("0000") else exact.rstrip("0"))


class Scope(StrEnum):
    """Whose spending a budget bounds."""

    AGENT = "agent"
    TENANT = "tenant"
    TEAM = "team"
    MODEL = "model"
    ALL = "all"


class Period(StrEnum):
    """After how long a budget begins anew."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    TOTAL = "total"
    """Never."""


class Action(StrEnum):
    """What happens to a call that its budget has no room for."""

    REJECT = "reject"
    ALERT = "alert"
    """It goes on, and somebody is told."""
    DOWNGRADE = "downgrade"
    """It goes on with a cheaper model."""


THRESHOLDS = (50, 80, 95)
"""Percent of a limit whose reaching is told, unless a budget says otherwise."""


class Budget(NamedTuple):
    """One rule. Without a key it is for each value of its scope that no other budget of the scope names."""

    scope: Scope
    key: str | None
    """The name; of a model, or a glob over models; `*` for all together."""
    limit: int
    unit: Unit = Unit.USD
    period: Period = Period.TOTAL
    action: Action = Action.REJECT
    thresholds: tuple[int, ...] = THRESHOLDS
    """Each is told once in a period."""


class AccountKey(NamedTuple):
    """Which account of a ledger: one value of a scope, counted in one unit, over one period."""

    scope: Scope
    key: str
    unit: Unit
    period: Period


class Charge(NamedTuple):
    """What one call takes, or is estimated to take, and to whom it is charged."""

    agent: str
    tenant: str | None
    team: str | None
    model: str | None
    usd: int | None
    """Micro-USD; None where the model's price is not known."""
    weight: int
    """Milli-weights."""
    provider: str | None = None
    workflow: str | None = None
    session: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False
    """True where the provider did not say what it took."""

    def key(self, scope: Scope) -> str | None:
        """Return who or what of a scope is charged; None where the call does not say."""
        return "*" if scope is Scope.ALL else getattr(self, scope.value)

    def amount(self, unit: Unit) -> int:
        """Return what is charged; a call of unknown price takes nothing from a budget in USD."""
        return self.weight if unit is Unit.WEIGHT else self.usd or 0


class BudgetStatus(NamedTuple):
    """An account at one moment."""

    key: AccountKey
    limit: int
    spent: int
    reserved: int
    resets_at: float | None
    """None for never."""
    action: Action
    since: float | None = None
    """When the first call of the period was charged; None where none was."""


class Totals(NamedTuple):
    """What some calls took together."""

    by: tuple[str | None, ...]
    """The values they have in common, in the order asked for."""
    calls: int
    usd: int
    """Micro-USD of those that have a price."""
    weight: int
    unpriced: int
    """Calls of models whose price is not known."""
    estimated: int
    """Calls of which the provider did not say what they took."""
    input_tokens: int
    output_tokens: int


ATTRIBUTION = ("agent", "tenant", "team", "workflow", "session", "provider", "model")
"""What totals can be told by: fields of `Charge`."""


def ends(period: Period, now: float, zone: tzinfo) -> float | None:
    """Return when the period that `now` is in ends; None for never.

    A day and a month end at midnight of the zone's clocks, whatever they do in between; an hour and a minute are as
    long as ever, and begin when the zone's clocks show a whole one.
    """
    if period is Period.TOTAL:
        return None
    local = datetime.fromtimestamp(now, zone)
    if period is Period.MINUTE or period is Period.HOUR:
        gone = local.second + local.microsecond / 1e6 + (local.minute * 60 if period is Period.HOUR else 0)
        return round(now - gone) + (3600 if period is Period.HOUR else 60)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if period is Period.DAY:
        return (midnight + timedelta(days=1)).timestamp()
    following = midnight.replace(day=1) + timedelta(days=32)
    return following.replace(day=1).timestamp()


Standing = BudgetStatus
"""The earlier name of `BudgetStatus`."""
