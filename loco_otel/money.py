"""Budgets, charges and totals as values that all layers share.

Amounts are integers: micro-USD (millionths of a dollar), milli-weights, tokens or calls. Times are seconds since the
epoch.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta, tzinfo
from enum import StrEnum
from typing import NamedTuple

MICRO = 1_000_000
"""Micro-USD in one USD."""


class Unit(StrEnum):
    """What a budget counts.

    Example:
        >>> Unit.USD.amount(2_500_000)
        2.5
        >>> Unit.WEIGHT.tell(12.5)
        '12.5 weight'

    """

    USD = "usd"
    """Micro-USD."""
    WEIGHT = "weight"
    """Milli-weights."""
    TOKENS = "tokens"
    """Input and output tokens."""
    CALLS = "calls"
    """Calls that were sent, whatever their answer."""

    @property
    def scale(self) -> int:
        """The integer amount of one unit."""
        return _SCALES[self]

    def amount(self, integer: int) -> float:
        """Convert an integer amount to USD, weights, tokens or calls."""
        scale = _SCALES[self]
        return integer if scale == 1 else integer / scale

    def tell(self, amount: float) -> str:
        """Format an amount for people: $5.00, $0.000123, 12.5 weight, 3 calls."""
        if self is not Unit.USD:
            return f"{amount:.10g} {self}"
        exact = f"{amount:.6f}"
        return "$" + (exact[:-4] if exact.endswith("0000") else exact.rstrip("0"))


_SCALES = {Unit.USD: MICRO, Unit.WEIGHT: 1000, Unit.TOKENS: 1, Unit.CALLS: 1}


class Scope(StrEnum):
    """The kind of entity whose spending a budget limits.

    Example:
        >>> Scope('team') is Scope.TEAM
        True

    """

    AGENT = "agent"
    TENANT = "tenant"
    TEAM = "team"
    MODEL = "model"
    ALL = "all"
    RUN = "run"
    SESSION = "session"
    WORKFLOW = "workflow"


CALL_SCOPES = frozenset({Scope.RUN, Scope.SESSION})
"""Scopes whose names are the ids of single pieces of work, without bound: no metric has them."""


class Period(StrEnum):
    """The time after which a budget resets.

    Example:
        >>> [str(period) for period in Period]
        ['minute', 'hour', 'day', 'month', 'total']

    """

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    TOTAL = "total"
    """Never."""


class Action(StrEnum):
    """The action for a call that its budget has no room for.

    Example:
        >>> Action('downgrade') is Action.DOWNGRADE
        True

    """

    REJECT = "reject"
    ALERT = "alert"
    """Allow the call and report it."""
    DOWNGRADE = "downgrade"
    """Send the call to a cheaper model."""


class BudgetStore(StrEnum):
    """Where the amounts of budgets are kept.

    Example:
        >>> BudgetStore('ledger') is BudgetStore.LEDGER
        True

    """

    MEMORY = "memory"
    """In this process alone."""
    LEDGER = "ledger"
    """In a file or on a server that several processes share."""


THRESHOLDS = (50, 80, 95)
"""Percent of a limit at which a threshold event is emitted, unless a budget sets its own."""


class Budget(NamedTuple):
    """One rule. Without a key it is for each value of its scope that no other budget of the scope names.

    Example:
        >>> Budget(Scope.AGENT, 'analyst', 5 * MICRO).period is Period.TOTAL
        True

    """

    scope: Scope
    key: str | None
    """The name of an agent, tenant, team, model, run, session or workflow; for models also a glob; `*` for all
    together."""
    limit: int
    """0 admits no call."""
    unit: Unit = Unit.USD
    period: Period = Period.TOTAL
    action: Action = Action.REJECT
    thresholds: tuple[int, ...] = THRESHOLDS
    """Each fires once per period."""


class AccountKey(NamedTuple):
    """The key of one account of a ledger: one value of a scope, one unit, one period.

    Example:
        >>> AccountKey(Scope.AGENT, 'analyst', Unit.USD, Period.DAY).key
        'analyst'

    """

    scope: Scope
    key: str
    unit: Unit
    period: Period


ALL_KINDS = "all"
"""In place of a kind of `BilledItem`: nothing of the call has a known price."""
REPORTED_CHARGE = "reported_usd"
"""The kind of the charge in micro-USD that a provider or router reports itself."""


class BilledItem(NamedTuple):
    """One figure of an answer that a provider bills, beside the token counts of `Usage`.

    Example:
        >>> item = BilledItem('web_searches', 2)
        >>> f'{item.amount} {item.kind}'
        '2 web_searches'

    """

    kind: str
    """The name that `genai-prices` has for its unit, such as `input_audio_tokens` or `cache_write_1h_tokens`; else a
    name of the same form.

    Tokens of a modality or of a cache are a part of the token counts of `Usage`. Input tokens of a modality exclude
    those read from a cache.
    """
    amount: int


class Charge(NamedTuple):
    """The cost of one call, actual or estimated, and the identities that it is charged to.

    Example:
        >>> charge = Charge('analyst', None, None, 'gpt-4o', usd=None, weight=1500)
        >>> charge.key(Scope.MODEL), charge.amount(Unit.USD), charge.amount(Unit.WEIGHT)
        ('gpt-4o', 0, 1500)

    """

    agent: str
    tenant: str | None
    team: str | None
    model: str | None
    usd: int | None
    """Micro-USD; None if the model's price is unknown."""
    weight: int
    """Milli-weights."""
    provider: str | None = None
    workflow: str | None = None
    session: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False
    """True if the provider reported no usage."""
    underpriced: bool = False
    """True if a part of the call has no known price."""
    run: str | None = None

    def key(self, scope: Scope) -> str | None:
        """Return the charged name within a scope; None if the call has none."""
        return "*" if scope is Scope.ALL else getattr(self, scope.value)

    def amount(self, unit: Unit) -> int:
        """Return the charged amount in a unit. A call of unknown price charges 0 USD."""
        if unit is Unit.USD:
            return self.usd or 0
        if unit is Unit.WEIGHT:
            return self.weight
        return 1 if unit is Unit.CALLS else self.input_tokens + self.output_tokens


class BudgetStatus(NamedTuple):
    """An account at one moment.

    Example:
        >>> key = AccountKey(Scope.AGENT, 'analyst', Unit.USD, Period.TOTAL)
        >>> status = BudgetStatus(key, 5 * MICRO, spent=MICRO, reserved=0, resets_at=None, action=Action.REJECT)
        >>> Unit.USD.tell(key.unit.amount(status.limit - status.spent))
        '$4.00'

    """

    key: AccountKey
    limit: int
    spent: int
    reserved: int
    resets_at: float | None
    """None if the budget never resets. That of a run in total resets once the run has been silent until then."""
    action: Action
    since: float | None = None
    """The time of the period's first charged call; None if there is none."""


class BudgetReport(NamedTuple):
    """All budgets at one moment, as one process reports them.

    Example:
        >>> BudgetReport(BudgetStore.MEMORY).charged
        {}

    """

    store: BudgetStore
    statuses: tuple[BudgetStatus, ...] = ()
    """Those of all accounts but of single runs and sessions, which are without bound."""
    charged: Mapping[AccountKey, int] = {}
    """What this process has charged since its start, in all periods; accounts of single runs and sessions excluded."""
    call_budgets: tuple[Budget, ...] = ()
    """The budgets of single runs and sessions."""


class Totals(NamedTuple):
    """What some calls took together.

    Example:
        >>> Totals._fields[:2]
        ('by', 'calls')

    """

    by: tuple[str | None, ...]
    """The values that they have in common, in the requested order."""
    calls: int
    usd: int
    """Micro-USD of the calls that have a price."""
    weight: int
    unpriced: int
    """Calls of which all or a part has no known price."""
    estimated: int
    """Calls for which the provider reported no usage."""
    input_tokens: int
    output_tokens: int


ATTRIBUTION = ("agent", "tenant", "team", "workflow", "session", "provider", "model")
"""The fields of `Charge` by which all totals can be grouped."""
RUN_ATTRIBUTION = (*ATTRIBUTION, "run")
"""Those of calls that belong to a run."""


def ends(period: Period, now: float, zone: tzinfo) -> float | None:
    """Return the end of the period that contains `now`; None if it never ends.

    A day and a month end at midnight in the zone, across clock changes. An hour and a minute have a fixed length and
    start on the zone's full hour or minute.

    Example:
        >>> from datetime import UTC
        >>> ends(Period.MINUTE, 61.0, UTC)
        120

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
