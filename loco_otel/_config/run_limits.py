"""The limits of each run, in the form of the settings."""

from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from loco_otel._config.budget_rules import Limit
from loco_otel._config.validators import MAX_NUMBER, convert_to_lower, reject_bool
from loco_otel.money import Action, Budget, Period, Scope, Unit

_Count = Annotated[int, BeforeValidator(reject_bool), Field(ge=0, le=MAX_NUMBER)]
_Repeats = Annotated[int, BeforeValidator(reject_bool), Field(ge=1, le=MAX_NUMBER)]
_Seconds = Annotated[float, BeforeValidator(reject_bool), Field(gt=0, le=MAX_NUMBER, allow_inf_nan=False)]


class RunLimits(BaseModel):
    """What one run may take; None is no limit. A field's description completes "must be" in error messages.

    All but `seconds` and `repeats` are short for a budget of each run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    usd: Limit | None = Field(default=None, description="0, or a number from 0.001 to 1000000000")
    tokens: _Count | None = Field(default=None, description="a whole number of at least 0")
    calls: _Count | None = Field(default=None, description="a whole number of at least 0")
    calls_per_minute: _Count | None = Field(default=None, description="a whole number of at least 0")
    """Calls in each minute by the clock."""
    seconds: _Seconds | None = Field(default=None, description="a number of seconds above 0")
    """From its first call; later calls are refused."""
    repeats: _Repeats | None = Field(default=None, description="a whole number of at least 1")
    """The number of identical tool calls at which it warns; at twice as many it refuses the next call."""

    def list_budgets(self) -> tuple[Budget, ...]:
        """Return the budgets of each run, in the form of the ledger. A run on the way to its limit is no alert."""
        limits = (
            (self.usd, Unit.USD, Period.TOTAL),
            (self.tokens, Unit.TOKENS, Period.TOTAL),
            (self.calls, Unit.CALLS, Period.TOTAL),
            (self.calls_per_minute, Unit.CALLS, Period.MINUTE),
        )
        return tuple(
            Budget(Scope.RUN, None, round(limit * unit.scale), unit, period, Action.REJECT, thresholds=())
            for limit, unit, period in limits
            if limit is not None
        )

    def __str__(self) -> str:
        return ", ".join(f"{name}={_format(value)}" for name, value in self if value is not None) or "none"


def parse_run_limits_line(value: object) -> object:
    """Parse `usd=0.50,calls=100,seconds=600,repeats=5`, or `none`.

    Raises:
        ValueError: a part is not a name with a number.

    """
    if not isinstance(value, str):
        return value
    limits: dict[str, str] = {}
    if convert_to_lower(value) == "none":
        return limits
    for part in filter(None, (part.strip() for part in value.split(","))):
        name, equals, amount = part.partition("=")
        name = name.strip().lower()
        if not (equals and name in RunLimits.model_fields and name not in limits):
            raise ValueError(f"{part!r} is not one of {', '.join(RunLimits.model_fields)} with a number, each once")
        limits[name] = amount.strip()
    return limits


def _format(value: Decimal | float) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else f"{value:.10g}"
