"""The interface of a ledger: the accounts of one process, or of several that share a file or a server.

Every operation is atomic for all users of the ledger, thread-safe, and idempotent for one reservation id.
`now` is in seconds since the epoch.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import tzinfo
from typing import Protocol

from loco_otel._budgets.account import Decision, LedgerUpdate
from loco_otel.money import AccountKey, Action, Budget, BudgetStatus, Charge, Scope, Totals


class Ledger(Protocol):
    """Stores spent and reserved amounts.

    Raises:
        LedgerError: by any operation, if the ledger can't be used now. No partial change is made.

    """

    is_remote: bool
    """Whether operations wait for a server. Then callers on an event loop use other threads, and the ledger itself
    renews the reservations of its process, and logs that the server is away."""
    lease: float
    """Seconds after which a reservation that was not renewed expires."""
    run_idle_timeout: float
    """Seconds of silence after which a run is forgotten: its accounts are removed."""
    counts_runs: bool
    """Whether totals are kept per run too."""

    def set_budgets(self, budgets: Iterable[Budget], zone: tzinfo) -> None:
        """Replace the rules. Accounts keep their spent and reserved amounts."""

    def reserve_estimate(
        self, hold: str, charge: Charge, now: float, passing: Collection[Action] = (Action.ALERT,)
    ) -> Decision:
        """Reserve a call's estimate in all its budgets, or in none.

        Args:
            hold: the id of the reservation. If it exists, it is kept and the call is admitted.
            charge: the estimate, and the agent, tenant, team, model, run, session and workflow that are charged.
            now: the current time.
            passing: the actions with which a budget without room still admits the call.

        """

    def check_estimate(
        self, charge: Charge, now: float, passing: Collection[Action] = (Action.ALERT,), hold: str | None = None
    ) -> Decision:
        """Return the decision of `reserve_estimate` as if nothing else were reserved, and reserve nothing.

        A call rejected by this check is rejected however long it waits within the period.

        Args:
            charge: as for `reserve_estimate`.
            now: the current time.
            passing: as for `reserve_estimate`.
            hold: the id of the ticket, if the call waits. A ledger on the server of the shared engine then reserves
                the estimate in the same step, if the engine has granted the ticket and there is room;
                `Decision.is_reserved` is true then.

        """

    def settle_reservation(self, hold: str, charge: Charge, now: float) -> LedgerUpdate:
        """End a reservation and spend the call's actual cost.

        A call without a reservation is charged too.
        """

    def cancel_reservation(self, hold: str, now: float, *, sent: bool = False) -> None:
        """End a reservation without spending. No-op if it has ended.

        Args:
            hold: the id of the reservation.
            now: the time, in seconds since the epoch.
            sent: whether the call was sent: then budgets of calls spend it all the same, in the period of that time.

        """

    def renew_reservations(self, holds: Iterable[str], now: float) -> None:
        """Extend the expiry of the reservations of calls in flight."""

    def read_statuses(self, now: float, scopes: Collection[Scope] = tuple(Scope)) -> tuple[BudgetStatus, ...]:
        """Return the status of every account of some scopes.

        Accounts of named budgets exist before anything is spent.
        """

    def compute_totals(self, by: Sequence[str]) -> tuple[Totals, ...]:
        """Return the totals of all settled calls, grouped by fields in `ATTRIBUTION`, in descending order of USD."""

    def reset_account(self, key: AccountKey) -> None:
        """Set an account's spent amount to 0. Reserved amounts are kept."""

    def close(self) -> None:
        """Release open resources."""

    def after_fork(self) -> None:
        """Drop the reservations in a forked child, as they belong to its parent."""
