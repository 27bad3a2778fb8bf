"""What this process states of the resources that it shares with other processes."""

from math import inf

from loco_otel._config.settings import Settings
from loco_otel._engine.shared_limits import SharedLimits
from loco_otel._runtime.order_settings import build_priority_rules, convert_shares
from loco_otel.errors import ConfigurationError
from loco_otel.events import DEFAULT_RESOURCE


def make_statements(settings: Settings) -> dict[str, SharedLimits]:
    """Return what this process states of the resources that exist from the start."""
    limits = _make_shared_limits(settings)
    statements = {} if settings.capacity is None else {DEFAULT_RESOURCE: limits}
    for rule in settings.resources:
        statements[rule.name] = limits._replace(
            capacity=rule.capacity,
            capacity_max=rule.capacity_max or inf,
            requests_per_minute=rule.requests_per_minute,
            tokens_per_minute=rule.tokens_per_minute,
        )
    return statements


def reject_adaptive_changes(before: Settings, after: Settings) -> None:
    """Reject other settings by which a shared capacity becomes adaptive, or fixed.

    Raises:
        ConfigurationError: it does.

    """
    if (before.capacity is None) != (after.capacity is None):
        raise ConfigurationError(
            "with LOCO_ENGINE, whether LOCO_CAPACITY is auto is read at the start of a program, not by configure()"
        )
    adaptive = {rule.name: rule.capacity is None for rule in before.resources}
    for rule in after.resources:
        if adaptive.get(rule.name, rule.capacity is None) != (rule.capacity is None):
            raise ConfigurationError(
                f"with LOCO_ENGINE, whether the capacity of the resource {rule.name} is auto is read at the start of a"
                " program, not by configure()"
            )


def make_discovered(settings: Settings) -> SharedLimits | None:
    """Return what this process states of the provider's hosts, whose resources are created on request."""
    return _make_shared_limits(settings) if settings.capacity is None else None


def _make_shared_limits(settings: Settings) -> SharedLimits:
    return SharedLimits(
        settings.capacity,
        settings.policy,
        settings.alpha if settings.policy == "load" else 0.0,
        settings.max_wait_ticks,
        convert_shares(settings.shares) if settings.policy in {"fair", "las"} else {},
        settings.requests_per_minute,
        settings.tokens_per_minute,
        settings.capacity_max or inf,
        settings.auto_tune and settings.policy == "load",
        settings.queue_by == "run",
        settings.half_life or inf if settings.policy == "las" else inf,
        settings.run_idle_timeout if settings.policy == "las" else inf,
        convert_shares(settings.tenant_shares),
        build_priority_rules(settings),
    )
