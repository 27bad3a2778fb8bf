"""The waiting calls by the accounts that they would be charged to."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Sequence
from math import inf
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from loco_otel import _fork
from loco_otel._budgets.rules import Rules
from loco_otel._core.ticket import Ticket
from loco_otel.money import AccountKey, Action, Budget, BudgetStatus, Charge

RejectionCheck: TypeAlias = Callable[[Ticket], Exception | None]
"""Returns the error with which a call will be rejected however long it waits; None while it may be admitted."""

_Entry: TypeAlias = tuple[int, int, Ticket]
"""An estimate, and the ticket's sequence number, which prevents the comparison of tickets."""


class _Waiter(NamedTuple):
    charges: tuple[Charge, ...]
    refusal: RejectionCheck


class _Room(NamedTuple):
    """What an account had left when it was last charged."""

    since: float | None
    """Identifies the period: an account has its whole limit again in the next one."""
    amount: float


class WaiterIndex:
    """The waiting calls, by account and estimate. Thread-safe.

    A charge affects those waiters of an account whose estimate fitted into it before, and no longer does. Each call is
    therefore found once for each of its accounts and estimates in a period, however many charges follow.
    """

    def __init__(self) -> None:
        self._lock = _fork.ForkSafeLock()
        self._rules = Rules()
        self._waiters: dict[Ticket, _Waiter] = {}
        self._entries: dict[AccountKey, list[_Entry]] = {}
        """Ascending."""
        self._rooms: dict[AccountKey, _Room] = {}
        """Of accounts with waiters."""

    def __bool__(self) -> bool:
        return bool(self._waiters)

    def add_waiter(self, ticket: Ticket, charges: tuple[Charge, ...], refusal: RejectionCheck) -> None:
        """Add a waiting call.

        Args:
            ticket: the call's ticket.
            charges: its estimates: one for each model that it may be sent with.
            refusal: checks whether the call is to be rejected.

        """
        with self._lock:
            waiter = self._waiters[ticket] = _Waiter(charges, refusal)
            self._add_entries(ticket, waiter)

    def remove_waiter(self, ticket: Ticket) -> None:
        """Remove a call that no longer waits. No-op if it is not here."""
        if ticket not in self._waiters:
            return
        with self._lock:
            waiter = self._waiters.get(ticket)
            if waiter is None:
                return
            for key, amount in self._list_estimates(waiter):
                entries = self._entries.get(key, [])
                at = bisect_left(entries, (amount, ticket.seq), key=itemgetter(0, 1))
                if at < len(entries) and entries[at][2] is ticket:
                    del entries[at]
                if not entries:
                    self._entries.pop(key, None)
                    self._rooms.pop(key, None)
            # Last, so that an interrupted removal is repeated.
            del self._waiters[ticket]

    def list_waiters(self) -> dict[Ticket, RejectionCheck]:
        """Return all waiting calls, each with its check."""
        with self._lock:
            return {ticket: waiter.refusal for ticket, waiter in self._waiters.items()}

    def find_affected(self, statuses: Iterable[BudgetStatus]) -> dict[Ticket, RejectionCheck]:
        """Return the waiting calls that have no room any more in an account that was just charged."""
        found = {}
        with self._lock:
            for status in statuses:
                entries = self._entries.get(status.key)
                if not entries or status.action is Action.ALERT:
                    continue
                before, now = self._rooms.get(status.key), _Room(status.since, status.limit - status.spent)
                self._rooms[status.key] = now
                fitted = before.amount if before is not None and before.since == now.since else inf
                for _, _, ticket in entries[_count_up_to(entries, now.amount) : _count_up_to(entries, fitted)]:
                    found[ticket] = self._waiters[ticket].refusal
        return found

    def set_budgets(self, budgets: Iterable[Budget]) -> None:
        """Replace the rules."""
        with self._lock:
            self._rules = Rules(budgets)
            self._entries, self._rooms = {}, {}
            for ticket, waiter in self._waiters.items():
                self._add_entries(ticket, waiter)

    def clear(self) -> None:
        """Remove all waiting calls."""
        with self._lock:
            self._waiters, self._entries, self._rooms = {}, {}, {}

    def _add_entries(self, ticket: Ticket, waiter: _Waiter) -> None:
        for key, amount in self._list_estimates(waiter):
            insort(self._entries.setdefault(key, []), (amount, ticket.seq, ticket))

    def _list_estimates(self, waiter: _Waiter) -> set[tuple[AccountKey, int]]:
        find_keys = self._rules.find_account_keys
        return {(key, charge.amount(key.unit)) for charge in waiter.charges for key in find_keys(charge)}


def _count_up_to(entries: Sequence[_Entry], amount: float) -> int:
    """Return the number of estimates that an amount has room for."""
    return bisect_right(entries, amount, key=itemgetter(0))
