"""Budgets and prices in the form of the settings."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from loco_otel._config.validators import MAX_NUMBER, convert_to_lower, reject_bool
from loco_otel.money import THRESHOLDS, Action, Budget, Period, Scope, Unit

DEFAULT_KEY = "default"
"""In a line of budgets: each agent that the line does not name."""
ALL_KEY = "*"
"""In a line of budgets: all agents together."""
_GLOB_CHARACTERS = frozenset("*?[")

_Cost = Annotated[Decimal, BeforeValidator(reject_bool), Field(ge=0, le=1_000_000, allow_inf_nan=False)]
_MIN_LIMIT = Decimal("0.001")


def _reject_too_small(limit: Decimal) -> Decimal:
    # Amounts are counted in millionths of a dollar and thousandths of a weight: a lower limit would become 0.
    if 0 < limit < _MIN_LIMIT:
        raise ValueError("too small")
    return limit


Limit = Annotated[
    Decimal,
    BeforeValidator(reject_bool),
    Field(ge=0, le=MAX_NUMBER, allow_inf_nan=False),
    AfterValidator(_reject_too_small),
]
_Percent = Annotated[int, Field(strict=True, ge=1, le=100)]


class Price(BaseModel):
    """The price of a model, in USD per million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    input: _Cost
    output: _Cost
    cache_read: _Cost | None = None
    """The price of cached input; None for the input's price."""
    cache_write: _Cost | None = None
    items: Mapping[str, _Cost] = {}
    """Prices of what else is billed, by kind: in USD, those of tokens per million."""


class BudgetRule(BaseModel):
    """One budget. A field's description completes "must be" in error messages."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    limit: Limit = Field(description=f"0, or a number from 0.001 to {MAX_NUMBER}; whole for tokens and calls")
    """0 admits no call."""
    scope: Annotated[Scope, BeforeValidator(convert_to_lower)] = Field(
        default=Scope.AGENT, description=f"one of {', '.join(Scope)}"
    )
    """The kind of entity whose spending it limits."""
    key: Annotated[str, Field(min_length=1)] | None = Field(default=None, description="a name")
    """The entity's name; None for each that no other budget names."""
    unit: Annotated[Unit, BeforeValidator(convert_to_lower)] = Field(
        default=Unit.USD, description=f"one of {', '.join(Unit)}"
    )
    period: Annotated[Period, BeforeValidator(convert_to_lower)] | None = Field(
        default=None, description=f"one of {', '.join(Period)}"
    )
    """None is `budget_period`."""
    on_exceeded: Annotated[Action, BeforeValidator(convert_to_lower)] | None = Field(
        default=None, description=f"one of {', '.join(Action)}"
    )
    """None is `budget_on_exceeded`."""
    thresholds: tuple[_Percent, ...] = Field(
        default=THRESHOLDS, description="a list of whole percentages from 1 to 100"
    )

    @model_validator(mode="after")
    def _reject_key_of_all(self) -> Self:
        if self.scope is Scope.ALL and self.key not in (None, ALL_KEY):
            raise ValueError("a budget of all has no key")
        return self

    @model_validator(mode="after")
    def _reject_fraction(self) -> Self:
        if self.unit.scale == 1 and self.limit % 1:
            raise ValueError(f"a limit of {self.unit} is a whole number")
        return self

    @model_validator(mode="after")
    def _reject_unmatchable_key(self) -> Self:
        if self.key is not None and self.scope is not Scope.ALL:
            _validate_key(self.scope, self.key)
        return self

    def make_budget(self, period: Period, action: Action) -> Budget:
        """Return the budget in the form of the ledger.

        Args:
            period: the default period.
            action: the default action.

        """
        key = ALL_KEY if self.scope is Scope.ALL else self.key
        amount = round(self.limit * self.unit.scale)
        return Budget(
            self.scope,
            key,
            amount,
            self.unit,
            self.period or period,
            self.on_exceeded or action,
            tuple(sorted(set(self.thresholds))),
        )

    def __str__(self) -> str:
        who = ALL_KEY if self.scope is Scope.ALL else self.key or DEFAULT_KEY
        name = who if self.scope in {Scope.AGENT, Scope.ALL} else f"{self.scope} {who}"
        return f"{name}={self.limit}" + ("" if self.unit is Unit.USD else f" {self.unit}")


def parse_budget_line(value: object) -> object:
    """Parse `analyst=5.00,default=2.00,*=20.00` to rules: USD for that agent, each other agent, and all together.

    Raises:
        ValueError: a part is not a name with an amount.

    """
    if not isinstance(value, str):
        return value
    if convert_to_lower(value) == "none":
        return ()
    rules: list[Mapping[str, object]] = []
    for part in filter(None, (part.strip() for part in value.split(","))):
        name, equals, amount = part.rpartition("=")
        name = name.strip()
        if not (equals and name):
            raise ValueError(f"{part!r} is not a name with an amount")
        try:
            limit = Decimal(amount.strip())
        except InvalidOperation:
            raise ValueError(f"{amount!r} is not an amount") from None
        if name == ALL_KEY:
            rules.append({"scope": Scope.ALL, "limit": limit})
        elif name == DEFAULT_KEY:
            rules.append({"limit": limit})
        else:
            _validate_key(Scope.AGENT, name)
            rules.append({"key": name, "limit": limit})
    if not rules:
        raise ValueError("it names no agent; write none for no budgets")
    return rules


def _validate_key(scope: Scope, key: str) -> None:
    """Reject a key that cannot match."""
    if scope is not Scope.MODEL and not _GLOB_CHARACTERS.isdisjoint(key):
        hint = '; scope = "all" is for all together' if key == ALL_KEY else ""
        raise ValueError(f"{key!r}: only the key of a model may be a glob{hint}")
    if key == DEFAULT_KEY:
        raise ValueError("a budget for each that no other one names has no key")


def find_duplicate_name(rules: tuple[BudgetRule, ...], period: Period) -> str | None:
    """Return the key that two rules share, in the same unit and period; `period` is the default."""
    seen = set()
    for rule in rules:
        who = (rule.scope, None if rule.scope is Scope.ALL else rule.key, rule.unit, rule.period or period)
        if who in seen:
            return rule.key or rule.scope
        seen.add(who)
    return None
