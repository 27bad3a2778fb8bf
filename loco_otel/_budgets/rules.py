"""The rules that map a call to the budgets it is charged to."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from loco_otel.money import CALL_SCOPES, AccountKey, Budget, Charge, Scope

_MAX_CALLERS = 10_000
_FINE_SCOPES = {*CALL_SCOPES, Scope.WORKFLOW}
"""Scopes that most callers have no budget of."""


class Rules:
    """All budgets. The last of several for one account applies; a default covers the keys that no named budget has."""

    def __init__(self, budgets: Iterable[Budget] = ()) -> None:
        self.named_budgets: dict[AccountKey, Budget] = {}
        self._defaults: list[Budget] = []
        for budget in budgets:
            if budget.key is None:
                same = (budget.scope, budget.unit, budget.period)
                self._defaults = [other for other in self._defaults if (other.scope, other.unit, other.period) != same]
                self._defaults.append(budget)
            else:
                self.named_budgets[AccountKey(budget.scope, budget.key, budget.unit, budget.period)] = budget
        self._names = {(key.scope, key.key) for key in self.named_budgets}
        scopes = {key.scope for key in self.named_budgets} | {default.scope for default in self._defaults}
        self._is_by_run = not scopes.isdisjoint(_FINE_SCOPES)
        self._keys_by_caller: dict[tuple[str | None, ...], tuple[AccountKey, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self.named_budgets or self._defaults)

    def find_account_keys(self, charge: Charge) -> tuple[AccountKey, ...]:
        """Return the keys of the accounts that a call is charged to."""
        if not self:
            return ()
        names: tuple[str | None, ...] = charge[:4]
        if self._is_by_run:
            names = (*names, charge.run, charge.session, charge.workflow)
        keys = self._keys_by_caller.get(names)
        if keys is None:
            if len(self._keys_by_caller) >= _MAX_CALLERS:
                self._keys_by_caller = {}
            keys = self._keys_by_caller[names] = (
                *self._match_named(charge),
                *self._match_defaults(charge),
            )
        return keys

    def find_budget(self, key: AccountKey) -> Budget | None:
        """Return the rule of an account; None if no rule covers it."""
        named = self.named_budgets.get(key)
        if named is not None or self._is_named(key.scope, key.key):
            return named
        for default in self._defaults:
            if (default.scope, default.unit, default.period) == (key.scope, key.unit, key.period):
                return default
        return None

    def _match_named(self, charge: Charge) -> Iterable[AccountKey]:
        return (key for key in self.named_budgets if _is_name_matching(key.key, key.scope, charge.key(key.scope)))

    def _match_defaults(self, charge: Charge) -> Iterable[AccountKey]:
        for default in self._defaults:
            key = charge.key(default.scope)
            if key is not None and not self._is_named(default.scope, key):
                yield AccountKey(default.scope, key, default.unit, default.period)

    def _is_named(self, scope: Scope, key: str) -> bool:
        return any(_is_name_matching(name, scope, key) for of, name in self._names if of is scope)


def _is_name_matching(name: str, scope: Scope, key: str | None) -> bool:
    """Return whether a budget's name, which may be a glob over models, matches a name."""
    return key == name or (scope is Scope.MODEL and key is not None and fnmatchcase(key, name))
