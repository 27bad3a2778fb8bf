"""The resources that a call needs: those of the rules that match it, else the default."""

from collections.abc import Iterable
from functools import lru_cache

from loco_otel._config.resource_rules import ResourceRule
from loco_otel.events import DEFAULT_RESOURCE

_MAX_CACHED_ROUTES = 1000


class Router:
    """Maps calls to the names of resources.

    Args:
        rules: the rules; all that match apply.
        has_fixed_capacity: whether one capacity is set for all calls that no rule matches. If not, each provider's
            host has its own limit.

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
