"""The budget of one call: whether it is admitted, with which model, and its actual cost."""

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeAlias

from loco_otel._budgets.account import Decision
from loco_otel._budgets.controller import BudgetController
from loco_otel._budgets.prices import CallCost
from loco_otel._core.ticket import State, Ticket
from loco_otel._fork import ForkSafeLock
from loco_otel.errors import BudgetExceededError, LedgerError
from loco_otel.events import BudgetExceeded, LimitAction, LimitDecided, LimitReason, Usage
from loco_otel.money import Action, BudgetStatus, Charge, Scope, Unit

_logger = logging.getLogger("loco_otel")

_ALERT_ONLY = (Action.ALERT,)
_LAST_RESORT_ACTIONS = (Action.ALERT, Action.DOWNGRADE)
_NO_LOCK = nullcontext()
_announcement_lock = ForkSafeLock()
_ALL_ACTIONS = tuple(Action)
_RUN_REASONS = {
    Unit.USD: LimitReason.RUN_USD,
    Unit.WEIGHT: LimitReason.RUN_WEIGHT,
    Unit.TOKENS: LimitReason.RUN_TOKENS,
    Unit.CALLS: LimitReason.RUN_CALLS,
}


class Estimate(NamedTuple):
    """The estimated cost of a call."""

    usage: Usage
    weight: int
    """Milli-weights."""


class ChargeContext(NamedTuple):
    """The provider, model and identity that a call is charged to."""

    caller: Sequence[Any]
    """Agent, tenant, team, workflow, session, run; what follows is not charged."""
    provider: str
    host: str | None
    model: str | None
    estimate: Callable[[str | None], Estimate]
    """The estimates, by the model that the call is sent with."""
    can_use_model: Callable[[str], bool]
    """Whether the call may be sent to another model on the same host, under the same resources."""
    service_tier: str | None = None
    """The service tier that the request names, if it changes the price."""


class ActualCost(NamedTuple):
    """The actual cost of a call."""

    usage: Usage
    weight: int
    """Milli-weights."""
    model: str | None
    """As the provider answered."""
    service_tier: str | None


class Settlement(NamedTuple):
    """What was charged for a call."""

    usd: int | None
    """Micro-USD; None if the model's price is unknown."""
    remaining: int | None
    """What remains of the tightest budget in USD; None without one."""
    action: Action | None
    """The action of a budget without room."""
    unpriced: tuple[str, ...] = ()
    """The kinds of what the amount leaves out, as it has no known price."""


class _ModelChoice(NamedTuple):
    model: str | None
    charge: Charge
    exceeded: tuple[BudgetStatus, ...]
    """The budgets without room for the requested model."""
    action: Action | None
    """The action applied because of them."""


_BudgetCheck: TypeAlias = Callable[[Charge, Collection[Action]], Decision]


class Reservation:
    """Reserves and settles the cost of one call, once."""

    __slots__ = (
        "_budgets",
        "_charge",
        "_check",
        "_context",
        "_early_choice",
        "_is_announced",
        "_is_open",
        "_is_reserved",
        "_lock",
        "_pid",
        "action",
        "model",
    )

    def __init__(self, budgets: BudgetController, subject: ChargeContext) -> None:
        self._budgets = budgets
        self._context = subject
        self._charge: Charge | None = None
        self._check: Future[Any] | None = None
        """The check of a waiter, if it was started in another thread."""
        self._is_announced = False
        """Whether its rejection was emitted."""
        self._is_open = True
        self._pid = os.getpid()
        self._is_reserved = False
        self._early_choice: _ModelChoice | None = None
        """What was reserved with the check of a waiter whose slot the shared engine had granted by then."""
        self._lock: AbstractContextManager[object] = _NO_LOCK
        """Held while a waiter is checked and while it is admitted, if the ledger may reserve for a waiter."""
        self.model = subject.model
        """The model that the call is sent with."""
        self.action: Action | None = None
        """The action that its budgets applied."""

    def begin_wait(self, ticket: Ticket) -> None:
        """Track a waiting call, and reject it at once if no budget can admit it."""
        if self._budgets.ledger_client.ledger.is_remote:
            self._lock = threading.Lock()
        charge = self._charge = self._make_estimated_charge(self.model)
        cheaper = tuple(map(self._make_estimated_charge, self._list_cheaper_models()))
        self._check = self._budgets.track_waiter(ticket, (charge, *cheaper), self._find_rejection)

    def start_admission(self, admit: Callable[[Ticket], None], ticket: Ticket) -> "Future[None]":
        """Run the engine's `admit_ticket`, which calls `admit_call`, in another thread, that of a running check."""
        check, self._check = self._check, None
        return self._budgets.ledger_client.start_thread(check, admit, ticket)

    def admit_call(self, ticket: Ticket) -> bool:
        """Reserve the call's estimate. The engine calls this once there is a slot.

        Raises:
            BudgetExceededError: a budget has no room for the call.
            LedgerError: the ledger can't be used, LOCO_LEDGER_ON_ERROR is not `open`, and LOCO_MODE is not `observe`.

        """
        if self._is_reserved:
            return True  # the wait after a retry's back-off
        try:
            with self._lock:
                choice = self._early_choice or self._reserve_model(ticket)
        except BudgetExceededError as error:
            self._emit_rejection(ticket, error)
            raise
        except LedgerError as error:
            if self._budgets.is_fail_closed:
                raise LedgerError(
                    f"{error}; the call was not sent (LOCO_LEDGER_ON_ERROR decides about calls that have budgets)",
                    agent=self._context.caller[0],
                ) from error
            self._budgets.ledger_client.warn_unchecked(error)
            return True
        self._is_reserved = True
        if not self._is_open:  # the call was cancelled while this ran in another thread
            self._budgets.ledger_client.cancel_reservation(ticket)
        self._charge, self.model, self.action = choice.charge, choice.model, choice.action
        action = choice.action
        if action is not None:
            self._budgets.emit_budget_event(
                lambda at: BudgetExceeded(at, ticket, action, choice.exceeded, choice.model)
            )
            if self._budgets.is_observing:
                self._emit_would_refuse(ticket, choice)
        return True

    def _reserve_model(self, ticket: Ticket) -> _ModelChoice:
        client = self._budgets.ledger_client
        return self._choose_model(lambda charge, passing: client.reserve_estimate(ticket, charge, passing))

    @property
    def is_open(self) -> bool:
        """Whether the call is unsettled and belongs to this process, not to the parent of a fork."""
        return self._is_open and self._pid == os.getpid()

    def settle_cost(self, ticket: Ticket, bill: ActualCost) -> Settlement:
        """Spend the call's actual cost."""
        self._is_open = False
        charge, unpriced = self._make_actual_charge(bill)
        standings = self._budgets.settle_charge(ticket, charge, is_reserved=self._is_reserved)
        remaining = None
        if standings:
            left = [standing.limit - standing.spent for standing in standings if standing.key.unit is Unit.USD]
            remaining = min(left, default=None)
        return Settlement(charge.usd, remaining, self.action, unpriced)

    def cancel(self, ticket: Ticket, *, sent: bool = False) -> None:
        """End the reservation without spending more than the call itself, if it was sent."""
        if self.is_open:
            self._is_open = False
            self._budgets.ledger_client.cancel_reservation(ticket, sent=sent)

    def settle_in_finalizer(self, ticket: Ticket, bill: ActualCost | None) -> Settlement:
        """Settle the call, or cancel it if there is no cost, at the next maintenance.

        Safe in finalisers: takes no lock, logs and loads nothing.
        """
        charge, unpriced = (None, ()) if bill is None else self._make_actual_charge(bill, in_finalizer=True)
        if self.is_open:
            self._is_open = False
            self._budgets.ledger_client.defer_settlement(ticket, charge)
        return Settlement(None if charge is None else charge.usd, None, self.action, unpriced)

    def _make_actual_charge(self, bill: ActualCost, *, in_finalizer: bool = False) -> tuple[Charge, tuple[str, ...]]:
        """Return the charge, and the kinds of what it leaves out."""
        usage, weight, _, tier = bill
        cost = self._compute_cost((bill.model, self.model), usage, tier, in_finalizer=in_finalizer)
        charge = self._build_charge(self.model or bill.model, cost.usd, weight, usage)
        return (charge._replace(underpriced=True) if cost.unpriced else charge), cost.unpriced

    def _make_estimated_charge(self, model: str | None) -> Charge:
        usage, weight = self._context.estimate(model)
        cost = self._compute_cost((model,), usage, self._context.service_tier)
        return self._build_charge(model, cost.usd, weight, usage)

    def _compute_cost(
        self, models: Sequence[str | None], usage: Usage, service_tier: str | None, *, in_finalizer: bool = False
    ) -> CallCost:
        context = self._context
        return self._budgets.prices.compute_cost(
            context.provider,
            models,
            usage,
            host=context.host,
            service_tier=service_tier,
            in_finalizer=in_finalizer,
        )

    def _build_charge(self, model: str | None, usd: int | None, weight: int, usage: Usage) -> Charge:
        agent, tenant, team, workflow, session, run = self._context.caller[:6]
        return Charge(
            agent,
            tenant,
            team,
            model,
            usd,
            weight,
            self._context.provider,
            workflow,
            session,
            usage.input_tokens,
            usage.output_tokens,
            usage.estimated,
            run=run,
        )

    def _find_rejection(self, ticket: Ticket) -> Exception | None:
        """Return the error of a call that the period cannot admit; None if it can or the ledger fails.

        If its slot is granted by now and its own model has room, the ledger reserves, and `admit_call` uses that.
        """
        try:
            with self._lock:
                if self._early_choice is None and ticket.state is State.WAITING:
                    self._check_models(ticket)
        except BudgetExceededError as error:
            self._emit_rejection(ticket, error)
            return error
        except LedgerError:
            return None  # decided by `admit_call` once there is a slot
        return None

    def _check_models(self, ticket: Ticket) -> None:
        is_reserved = False

        def ask(charge: Charge, passing: Collection[Action]) -> Decision:
            nonlocal is_reserved
            decision = self._budgets.check_waiter(ticket, charge, passing)
            is_reserved = decision.is_reserved
            return decision

        choice = self._choose_model(ask, self._budgets.check_estimate)
        if is_reserved:
            self._early_choice = choice
            if not self._is_open:  # the call was cancelled while this ran in another thread
                self._budgets.ledger_client.cancel_reservation(ticket)

    def _choose_model(self, ask: _BudgetCheck, ask_cheaper: _BudgetCheck | None = None) -> _ModelChoice:
        """Return the first model of the ladder for which all budgets have room.

        Args:
            ask: checks the model that was requested.
            ask_cheaper: checks the others, by default as the first.

        Raises:
            BudgetExceededError: there is no such model, or the action of a budget without room is not `downgrade`.
            LedgerError: the ledger can't be used now.

        """
        subject = self._context
        charge = self._charge or self._make_estimated_charge(subject.model)
        decision = ask(charge, _ALL_ACTIONS if self._budgets.is_observing else _ALERT_ONLY)
        if decision.admitted:
            return _ModelChoice(subject.model, charge, decision.exceeded, Action.ALERT if decision.exceeded else None)
        cheaper = self._choose_cheaper_model(ask_cheaper or ask, charge, decision.exceeded)
        if cheaper is not None:
            return cheaper
        refusing = next(standing for standing in decision.exceeded if standing.action is not Action.ALERT)
        raise BudgetExceededError.of(refusing, subject.caller[0], charge.amount(refusing.key.unit))

    def _choose_cheaper_model(
        self, ask: _BudgetCheck, charge: Charge, exceeded: tuple[BudgetStatus, ...]
    ) -> _ModelChoice | None:
        """Return the first cheaper model for which all budgets have room; None without one, or if a budget rejects."""
        if any(standing.action is Action.REJECT for standing in exceeded):
            return None
        model = self._context.model
        for cheaper in self._list_cheaper_models():
            model, charge = cheaper, self._make_estimated_charge(cheaper)
            if ask(charge, _ALERT_ONLY).admitted:
                return _ModelChoice(model, charge, exceeded, Action.DOWNGRADE)
        if self._budgets.is_alert_last and ask(charge, _LAST_RESORT_ACTIONS).admitted:
            return _ModelChoice(model, charge, exceeded, Action.ALERT)
        return None

    def _emit_would_refuse(self, ticket: Ticket, choice: _ModelChoice) -> None:
        """Emit that a call was admitted, while the mode is `observe`, that would have been refused.

        Whether a cheaper model would fit is checked as if nothing were reserved, as the call itself is by now.
        """
        refusing = next((standing for standing in choice.exceeded if standing.action is not Action.ALERT), None)
        if refusing is None:
            return
        try:
            cheaper = self._choose_cheaper_model(self._budgets.check_estimate, choice.charge, choice.exceeded)
        except LedgerError:
            return
        if cheaper is None:
            self._emit_decision(ticket, refusing, LimitAction.WOULD)

    def _list_cheaper_models(self) -> Iterable[str]:
        return filter(self._context.can_use_model, self._budgets.find_cheaper_models(self._context.model))

    def _emit_rejection(self, ticket: Ticket, error: BudgetExceededError) -> None:
        standing = error.standing
        if standing is not None and self._announce_rejection():
            self._budgets.emit_budget_event(lambda at: BudgetExceeded(at, ticket, Action.REJECT, (standing,), None))
            self._emit_decision(ticket, standing, LimitAction.REFUSED)

    def _announce_rejection(self) -> bool:
        """Return True once: several threads may find out at the same time that a waiter is hopeless."""
        with _announcement_lock:
            was, self._is_announced = self._is_announced, True
        return not was

    def _emit_decision(self, ticket: Ticket, standing: BudgetStatus, action: LimitAction) -> None:
        scope, _, unit, _ = standing.key
        reason = _RUN_REASONS[unit] if scope is Scope.RUN else LimitReason.BUDGET
        self._budgets.engine.emit(lambda at: LimitDecided(at, ticket, reason, action))
