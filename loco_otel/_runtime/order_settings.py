"""The settings of the order of waiters, as the core takes them."""

import random
from collections.abc import Callable, Mapping
from math import inf

from loco_otel._config.priority_rules import PriorityTable
from loco_otel._config.settings import Settings
from loco_otel._core.alpha_tuner import AlphaTuner
from loco_otel._core.policies.base import Policy
from loco_otel._core.policies.registry import make_policy_factory
from loco_otel._core.priority_order import DEFAULT_PRIORITY_RULES, PriorityRule, PriorityRules
from loco_otel.events import MILLI


def build_policy_factory(settings: Settings) -> Callable[[], Policy]:
    """Return what creates the policy of a queue set."""
    # The order of equal agents need not be reproducible.
    draw = random.Random().random  # noqa: S311 - breaks ties, keeps no secret
    return make_policy_factory(
        settings.policy,
        alpha=settings.alpha,
        shares=convert_shares(settings.shares),
        draw=draw,
        half_life=settings.half_life or inf,
        idle_timeout=settings.run_idle_timeout,
    )


def build_priority_rules(settings: Settings) -> PriorityRules:
    """Return how each class of urgency is served; what the settings leave out has its default."""
    rules = {}
    for priority, default in DEFAULT_PRIORITY_RULES.items():
        table = settings.priority.get(priority, PriorityTable())
        slots, fraction = default.slots, default.fraction
        if table.ceiling is not None:
            is_slots = isinstance(table.ceiling, int)
            slots, fraction = (int(table.ceiling), 1.0) if is_slots else (None, float(table.ceiling))
        share = default.share if table.share is None else round(table.share * MILLI)
        rules[priority] = PriorityRule(share, table.strict, slots, fraction)
    return rules


def convert_shares(shares: Mapping[str, float]) -> dict[str, int]:
    """Return shares in thousandths."""
    return {name: round(share * MILLI) for name, share in shares.items()}


def build_tuner_factory(settings: Settings) -> Callable[[], AlphaTuner | None]:
    """Return what creates the tuner of a queue set's alpha; it creates none if alpha is constant."""
    if settings.auto_tune and settings.policy == "load":
        return lambda: AlphaTuner(settings.alpha)
    return lambda: None
