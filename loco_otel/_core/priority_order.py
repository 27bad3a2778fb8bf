"""The order between classes of urgency.

Strict classes come first, the most urgent of them first. The others share the slots fairly, by weight served and in
proportion to their shares, with the bound of `fair` (see `policies/fair.py`). A class that holds as many slots of a
resource as its ceiling allows does not compete, and earns no credit meanwhile.
"""

from collections.abc import Collection, Mapping, Sequence
from math import floor, inf
from types import MappingProxyType
from typing import NamedTuple

from loco_otel._core.policies.base import Candidate
from loco_otel._core.policies.fair import FairPolicy
from loco_otel.events import MILLI, Priority


class PriorityRule(NamedTuple):
    """How one class is served."""

    share: int
    """In thousandths, among the classes that are not strict."""
    is_strict: bool = False
    """Whether it comes before all classes that are less urgent or not strict."""
    slots: int | None = None
    """The most slots of a resource that it may hold; None is no bound."""
    fraction: float = 1.0
    """The most of them as a part of all slots, rounded down, at least one."""

    def compute_ceiling(self, capacity: float) -> float:
        """Return the most of `capacity` slots that the class may hold; inf without a bound."""
        ceiling = inf if self.slots is None else self.slots
        if self.fraction < 1 and capacity != inf:
            ceiling = min(ceiling, max(1, floor(capacity * self.fraction)))
        return ceiling

    @property
    def has_ceiling(self) -> bool:
        """Whether the slots of the class are bounded."""
        return self.slots is not None or self.fraction < 1


PriorityRules = Mapping[Priority, PriorityRule]

DEFAULT_PRIORITY_RULES: PriorityRules = MappingProxyType(
    {
        Priority.INTERACTIVE: PriorityRule(8 * MILLI),
        Priority.NORMAL: PriorityRule(4 * MILLI),
        Priority.BACKGROUND: PriorityRule(1 * MILLI, fraction=0.9),
    }
)

_CANDIDATES = {priority: Candidate(0, 0, (rank, 0)) for rank, priority in enumerate(Priority)}
"""Of equal classes the most urgent is first."""


class PriorityOrder:
    """The order between the classes of one queue set. Keeps their accounts of service."""

    def __init__(self, rules: PriorityRules) -> None:
        self._rules = rules
        self._competing: set[Priority] = set()
        self._fair = FairPolicy({priority: rule.share for priority, rule in rules.items()})

    def update_competing(self, competing: Collection[Priority]) -> None:
        """Set the classes that have a waiter and room below their ceiling."""
        for priority in self._rules:
            if priority in competing and priority not in self._competing:
                self._competing.add(priority)
                if not self._rules[priority].is_strict:
                    self._fair.update_candidate(priority, _CANDIDATES[priority])
            elif priority not in competing and priority in self._competing:
                self._competing.discard(priority)
                self._fair.remove_candidate(priority)

    def pick_next(self) -> Priority | None:
        """Return the class to be served next; None if none competes."""
        for priority, rule in self._rules.items():
            if rule.is_strict and priority in self._competing:
                return priority
        return Priority(str(self._fair.pick_next(0))) if self._competing else None

    def restore_accounts(self, charged: Sequence[Priority], waiting: Collection[Priority]) -> None:
        """Remove all classes, after an interrupted operation, and keep what each was served."""
        self._competing.clear()
        self._fair.restore_accounts([it for it in charged if not self._rules[it].is_strict], waiting)

    def charge_grant(self, priority: Priority, weight: int, now: float) -> None:
        """Charge a class for a call."""
        if not self._rules[priority].is_strict:
            self._fair.charge_grant(priority, priority, weight, now)
            if priority in self._competing:
                self._fair.update_candidate(priority, _CANDIDATES[priority])

    def adjust_charge(self, priority: Priority, delta: int) -> None:
        """Correct the charge of a call that has ended."""
        self._fair.adjust_charge(priority, priority, delta, 0.0, 0.0)
