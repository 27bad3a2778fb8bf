"""Accounts, charges and totals as the script of the ledger takes and stores them."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, NamedTuple

from loco_otel._budgets.account import Account, LedgerUpdate, ReachedThreshold
from loco_otel._budgets.spend_totals import MAX_KEYS, shorten_key
from loco_otel.money import (
    ATTRIBUTION,
    RUN_ATTRIBUTION,
    AccountKey,
    Action,
    Budget,
    BudgetStatus,
    Charge,
    Period,
    Scope,
    Unit,
    ends,
)

_RUN_DAYS = timedelta(days=30)
"""Days for which what each run took is stored."""


class Share(NamedTuple):
    """What a call takes of one account."""

    key: AccountKey
    budget: Budget
    amount: int


class AccountRecord(NamedTuple):
    """An account as it is stored."""

    key: AccountKey
    spent: int
    resets_at: float | None
    since: float | None
    limit: int
    action: Action
    reserved: int


def name_account(key: AccountKey) -> str:
    """Return the name of an account in the server.

    Example:
        >>> name_account(AccountKey(Scope.AGENT, "my agent", Unit.USD, Period.DAY))
        'agent usd day my agent'

    """
    return f"{key.scope} {key.unit} {key.period} {_replace_surrogates(key.key)}"


def parse_name(name: str) -> AccountKey:
    """Return the key of an account, see `name_account`."""
    scope, unit, period, key = name.split(" ", 3)
    return AccountKey(Scope(scope), key, Unit(unit), Period(period))


def pack_share(share: Share, now: float, zone: tzinfo, idle: float) -> Sequence[Any]:
    """Return an account as an argument of the script.

    Args:
        share: what the call takes of it.
        now: the server's time.
        zone: the time zone at whose midnight a day ends.
        idle: seconds of silence after which a run is forgotten.

    """
    key, budget, amount = share
    resets = ends(key.period, now, zone)
    is_run = key.scope is Scope.RUN and key.period is Period.TOTAL
    return (
        name_account(key),
        amount,
        budget.limit,
        budget.action,
        int(budget.key is not None),
        "" if resets is None else f"{resets:.6f}",
        idle if is_run else 0,
        budget.thresholds,
    )


def pack_budget(key: AccountKey, budget: Budget) -> Sequence[Any]:
    """Return a named budget as an argument of the script."""
    return (name_account(key), budget.limit, budget.action)


def pack_rows(charge: Charge, now: float, *, counts_runs: bool) -> Sequence[Any]:
    """Return a settled call as the script adds it to the sums of its day."""
    unpriced = charge.usd is None or charge.underpriced
    sums = (1, charge.usd or 0, charge.weight, int(unpriced), int(charge.estimated))
    runs = _list_names(charge, RUN_ATTRIBUTION) if charge.run is not None and counts_runs else ()
    today = datetime.fromtimestamp(now, UTC).date()
    return (
        today.isoformat(),
        _list_names(charge, ATTRIBUTION),
        runs,
        (*sums, charge.input_tokens, charge.output_tokens),
        (today - _RUN_DAYS).isoformat(),
    )


def _list_names(charge: Charge, fields: Sequence[str]) -> Sequence[str]:
    """Return the name of a row, and those under which it is added where a day has many rows."""
    key = tuple([_replace_surrogates(getattr(charge, field)) for field in fields])
    return [json.dumps(shorten_key(key, known)) for known in (0, MAX_KEYS, 2 * MAX_KEYS)]


def parse_row(name: str, sums: str) -> tuple[Sequence[str | None], Sequence[int]]:
    """Return a row of a day's sums, for `aggregate_rows`."""
    return json.loads(name), [int(amount) for amount in sums.split("|")]


def parse_status(share: Share, fields: Sequence[Any]) -> BudgetStatus:
    """Return the status of an account that the script describes."""
    key, budget, _ = share
    _, spent, reserved, resets, since, *_ = fields
    period = _parse_time(resets), budget.action, _parse_time(since)
    return BudgetStatus(key, budget.limit, int(spent), int(reserved), *period)


def parse_update(shares: Sequence[Share], result: Sequence[Sequence[Any]]) -> LedgerUpdate:
    """Return what settling a call changed in its accounts."""
    statuses, reached = [], []
    for fields in result:
        status = parse_status(shares[fields[0]], fields)
        statuses.append(status)
        reached += [ReachedThreshold(percent, status) for percent in sorted(fields[5])]
    return LedgerUpdate(tuple(statuses), tuple(reached))


def parse_account(name: str, record: str) -> AccountRecord:
    """Return an account as it is stored, see `ledger.lua`."""
    spent, _, resets, since, limit, action, reserved, _ = record.split("|")
    return AccountRecord(
        parse_name(name),
        int(spent),
        _parse_time(resets),
        _parse_time(since),
        int(limit),
        Action(action),
        int(reserved),
    )


def parse_hold(text: str) -> Sequence[tuple[str, int]]:
    """Return the accounts and amounts of a reservation as it is stored."""
    return [(name, int(amount)) for name, amount in json.loads(text)]


def make_status(
    record: AccountRecord | None, key: AccountKey, budget: Budget, now: float, zone: tzinfo
) -> BudgetStatus:
    """Return the status of an account at a time, also if nothing is stored of it."""
    account = Account(key, budget, ends(key.period, now, zone))
    if record is not None:
        account.reserved = record.reserved
        account.spent, account.since = record.spent, record.since
        if record.since is not None or account.is_forgettable:
            account.resets_at = record.resets_at
        account.roll_period(now, zone)
    return account.make_status()


def _replace_surrogates(text: Any) -> Any:
    """Return a text that the script can decode."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text


def _parse_time(text: str) -> float | None:
    return float(text) if text else None
