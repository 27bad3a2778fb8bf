"""Rules that state which calls need which resource."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from loco_otel._config.validators import MAX_NUMBER, accept_none_word, reject_bool
from loco_otel.events import DEFAULT_RESOURCE


def _reject_default_name(name: str) -> str:
    if name == DEFAULT_RESOURCE:
        raise ValueError("the default resource has its own settings")
    return name


_ResourceName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, pattern=r"^[^\s+,]+$")]
_PositiveInteger = Annotated[int, BeforeValidator(reject_bool), Field(ge=1, le=MAX_NUMBER)]
_Capacity = Annotated[int, BeforeValidator(reject_bool), Field(ge=0, le=MAX_NUMBER)]
_RatePerMinute = Annotated[float, BeforeValidator(reject_bool), Field(gt=0, le=1e12, allow_inf_nan=False)]


class ResourceRule(BaseModel):
    """One resource, and the calls that need it. A field's description completes "must be"."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: Annotated[_ResourceName, AfterValidator(_reject_default_name)] = Field(
        description=f"a name without spaces, commas and +, other than {DEFAULT_RESOURCE}"
    )
    capacity: Annotated[_Capacity | None, accept_none_word("auto")] = Field(
        default=None, description="auto or a whole number of at least 0 (0 grants no slot)"
    )
    """Slots; at 0 all calls wait until it is raised. None, written `auto`, adapts to the provider's refusals."""
    capacity_max: _PositiveInteger | None = Field(default=None, description="a whole number of at least 1")
    """The upper bound of `auto`."""
    requests_per_minute: _RatePerMinute | None = Field(default=None, description="a number above 0")
    tokens_per_minute: _RatePerMinute | None = Field(default=None, description="a number above 0")
    provider: str | None = Field(default=None, description="a provider's name or glob")
    """The provider of the calls that need it, by `gen_ai.provider.name`."""
    model: str | None = Field(default=None, description="a model's name or glob")
    host: str | None = Field(default=None, description="a host's name or glob")

    def is_needed_by(self, provider: str | None, model: str | None, host: str | None) -> bool:
        """Return whether a call needs this resource. One without conditions is needed only if requested by name."""
        pairs = ((self.provider, provider), (self.model, model), (self.host, host))
        rules = [(glob, value) for glob, value in pairs if glob is not None]
        return bool(rules) and all(value is not None and fnmatchcase(value, glob) for glob, value in rules)


def index_by_name(rules: Iterable[ResourceRule]) -> Mapping[str, ResourceRule]:
    """Return the rules by name.

    Raises:
        ValueError: two rules have the same name.

    """
    named: dict[str, ResourceRule] = {}
    for rule in rules:
        if rule.name in named:
            raise ValueError(f"two are named {rule.name}")
        named[rule.name] = rule
    return named


def reject_duplicate_names(rules: tuple[ResourceRule, ...]) -> tuple[ResourceRule, ...]:
    """Return rules whose names differ.

    Raises:
        ValueError: two rules have the same name.

    """
    index_by_name(rules)
    return rules
