"""Rules that map calls to resources, and the default for calls that no rule matches."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from loco_otel._config.validators import MAX_NUMBER, accept_none_word, reject_bool
from loco_otel.events import DEFAULT_RESOURCE

_MAX_CACHED_ROUTES = 1000


def _reject_default_name(name: str) -> str:
    if name == DEFAULT_RESOURCE:
        raise ValueError("the default resource has the settings of its own")
    return name


_ResourceName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, pattern=r"^[^\s+,]+$")]
_PositiveInteger = Annotated[int, BeforeValidator(reject_bool), Field(ge=1, le=MAX_NUMBER)]
_RatePerMinute = Annotated[float, BeforeValidator(reject_bool), Field(gt=0, le=1e12, allow_inf_nan=False)]


class ResourceRule(BaseModel):
    """One resource, and the calls that need it. A field's description completes "must be"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[_ResourceName, AfterValidator(_reject_default_name)] = Field(
        description=f"a name without spaces, commas and +, other than {DEFAULT_RESOURCE}"
    )
    capacity: Annotated[_PositiveInteger | None, accept_none_word("auto")] = Field(
        default=None, description="auto or a whole number of at least 1"
    )
    """Slots; None, written `auto`, adapts to the provider's refusals."""
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
        told = ((self.provider, provider), (self.model, model), (self.host, host))
        rules = [(glob, value) for glob, value in told if glob is not None]
        return bool(rules) and all(value is not None and fnmatchcase(value, glob) for glob, value in rules)


class Router:
    """Maps calls to the names of resources.

    Args:
        rules: the rules; all that match apply.
        fixed: whether one capacity is set for all calls that no rule matches. If not, each provider's host has its own
            limit.

    """

    def __init__(self, rules: Iterable[ResourceRule], *, has_fixed_capacity: bool) -> None:
        self._rules = tuple(rules)
        self._has_fixed_capacity = has_fixed_capacity
        self.route_call = lru_cache(_MAX_CACHED_ROUTES)(self._find_resources)
        """Return the names of a call's resources, by its provider, model, host and non-default port."""

    def _find_resources(
        self, provider: str | None, model: str | None, host: str | None, port: int | None = None
    ) -> tuple[str, ...]:
        names = {rule.name for rule in self._rules if rule.is_needed_by(provider, model, host)}
        if names:
            return tuple(sorted(names))
        if self._has_fixed_capacity or provider is None:
            return (DEFAULT_RESOURCE,)
        if not host:
            return (provider,)
        return (f"{provider}/{host}" if port is None else f"{provider}/{host}:{port}",)


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
