"""One call's money: whether it is let in, with which model, and what it took in the end."""

import logging
import os
from collections.abc import Callable, Collection
from typing import NamedTuple, TypeAlias

from loco_otel._budgets.account import Decision
from loco_otel._budgets.controller import BudgetController
from loco_otel._core.ticket import Ticket
from loco_otel.errors import BudgetExceededError, LedgerError
from loco_otel.events import BudgetExceeded, Usage
from loco_otel.money import Action, BudgetStatus, Charge, Unit

_logger = logging.getLogger("loco_otel")

_ALERT_ONLY = (Action.ALERT,)
_LAST_RESORT_ACTIONS = (Action.ALERT, Action.DOWNGRADE)


class Estimate(NamedTuple):
    """What a call will probably take."""

    usage: Usage
    weight: int
    """Milli-weights."""


class ChargeContext(NamedTuple):
    """What is bought, of whom and for whom."""

    caller: tuple[str, str | None, str | None, str | None, str | None]
    """Agent, tenant, team, workflow, session."""
    provider: str
    host: str | None
    model: str | None
    estimate: Callable[[str | None], Estimate]
    """By the model that it is sent with."""
    can_use_model: Callable[[str], bool]
    """Whether another model is to be had at the same place, under the same resources."""
    service_tier: str | None = None
    """What is asked for, where that makes it dearer."""


class ActualCost(NamedTuple):
    """What a call took."""

    usage: Usage
    weight: int
    """Milli-weights."""
    model: str | None
    """As the provider answered."""
    service_tier: str | None


class Settlement(NamedTuple):
    """What was paid for a call."""

    usd: int | None
    """Micro-USD; None where the model's price is not known."""
    remaining: int | None
    """What the tightest of its budgets in USD has left; None without one."""
    action: Action | None
    """What a budget without room for it did."""


class _ModelChoice(NamedTuple):
    model: str | None
    charge: Charge
    exceeded: tuple[BudgetStatus, ...]
    """The budgets without room for the model that was asked for."""
    action: Action | None
    """What was done for their sake."""


_BudgetCheck: TypeAlias = Callable[[Charge, Collection[Action]], Decision]


class Reservation:
    """Pays for one call: asked before it is sent, and told what it took, once."""

    __slots__ = ("_budgets", "_charge", "_context", "_is_open", "_is_reserved", "_pid", "action", "model")

    def __init__(self, budgets: BudgetController, subject: ChargeContext) -> None:
        self._budgets = budgets
        self._context = subject
        self._charge: Charge | None = None
        self._is_open = True
        self._pid = os.getpid()
        self._is_reserved = False
        self.model = subject.model
        """What it is sent with."""
        self.action: Action | None = None
        """What its budgets did with it."""

    def begin_wait(self, ticket: Ticket) -> None:
        """Note that it waits for its slot, and turn it away if that is in vain."""
        charge = self._charge = self._make_estimated_charge(self.model)
        self._budgets.track_waiter(ticket, charge, self._find_rejection)

    def admit_call(self, ticket: Ticket) -> bool:
        """Reserve what it is estimated to take; the engine asks once there is a slot.

        Raises:
            BudgetExceededError: there is no room for it.
            LedgerError: nobody can tell, and calls are not let through unseen.

        """
        if self._is_reserved:
            return True  # the wait after a retry's pause
        try:
            choice = self._choose_model(
                lambda charge, passing: self._budgets.ledger_client.reserve_estimate(ticket, charge, passing)
            )
        except BudgetExceededError as error:
            self._emit_rejection(ticket, error)
            raise
        except LedgerError as error:
            if self._budgets.is_fail_closed:
                error.agent = self._context.caller[0]
                raise
            _logger.warning("a call is let in without a look at its budget, as ledger_on_error is open: %s", error)
            return True
        self._is_reserved = True
        self._charge, self.model, self.action = choice.charge, choice.model, choice.action
        action = choice.action
        if action is not None:
            self._budgets.emit_budget_event(
                lambda at: BudgetExceeded(at, ticket, action, choice.exceeded, choice.model)
            )
        return True

    @property
    def is_open(self) -> bool:
        """Whether it is still to be paid, or given back: by the process that made the call, not by a fork of it."""
        return self._is_open and self._pid == os.getpid()

    def settle_cost(self, ticket: Ticket, bill: ActualCost) -> Settlement:
        """Spend what it took."""
        self._is_open = False
        charge = self._make_actual_charge(bill)
        standings = self._budgets.settle_charge(ticket, charge)
        left = [standing.limit - standing.spent for standing in standings if standing.key.unit is Unit.USD]
        return Settlement(charge.usd, min(left, default=None), self.action)

    def cancel(self, ticket: Ticket) -> None:
        """Note that it took nothing."""
        if self.is_open:
            self._is_open = False
            self._budgets.ledger_client.cancel_reservation(ticket)

    def settle_in_finalizer(self, ticket: Ticket, bill: ActualCost | None) -> Settlement:
        """Do as `settle`, or as `give_back` without a bill, a little later.

        For finalisers: takes no lock, logs and loads nothing.
        """
        charge = None if bill is None else self._make_actual_charge(bill, in_finalizer=True)
        if self.is_open:
            self._is_open = False
            self._budgets.ledger_client.defer_settlement(ticket, charge)
        return Settlement(None if charge is None else charge.usd, None, self.action)

    def _make_actual_charge(self, bill: ActualCost, *, in_finalizer: bool = False) -> Charge:
        subject = self._context
        usd = self._budgets.prices.compute_cost(
            subject.provider,
            (bill.model, self.model),
            bill.usage,
            host=subject.host,
            service_tier=bill.service_tier,
            in_finalizer=in_finalizer,
        )
        return self._build_charge(self.model or bill.model, usd, bill.weight, bill.usage)

    def _make_estimated_charge(self, model: str | None) -> Charge:
        subject = self._context
        usage, weight = subject.estimate(model)
        usd = self._budgets.prices.compute_cost(
            subject.provider, (model,), usage, host=subject.host, service_tier=subject.service_tier
        )
        return self._build_charge(model, usd, weight, usage)

    def _build_charge(self, model: str | None, usd: int | None, weight: int, usage: Usage) -> Charge:
        agent, tenant, team, workflow, session = self._context.caller
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
        )

    def _find_rejection(self, ticket: Ticket) -> Exception | None:
        """Tell why it will not be let in within the period; None while it may, or while nobody knows."""
        try:
            self._choose_model(self._budgets.check_estimate)
        except BudgetExceededError as error:
            self._emit_rejection(ticket, error)
            return error
        except LedgerError:
            return None  # who is asked once there is a slot decides
        return None

    def _choose_model(self, ask: _BudgetCheck) -> _ModelChoice:
        """Find the first model of the ladder that all budgets have room for.

        Raises:
            BudgetExceededError: there is none, or a budget without room refuses rather than to go down the ladder.
            LedgerError: the ledger can't be used now.

        """
        subject = self._context
        charge = self._charge or self._make_estimated_charge(subject.model)
        decision = ask(charge, _ALERT_ONLY)
        if decision.admitted:
            return _ModelChoice(subject.model, charge, decision.exceeded, Action.ALERT if decision.exceeded else None)
        first, first_charge = decision.exceeded, charge
        model = subject.model
        if all(standing.action is not Action.REJECT for standing in first):
            for cheaper in filter(subject.can_use_model, self._budgets.find_cheaper_models(subject.model)):
                model, charge = cheaper, self._make_estimated_charge(cheaper)
                if ask(charge, _ALERT_ONLY).admitted:
                    return _ModelChoice(model, charge, first, Action.DOWNGRADE)
            if self._budgets.is_alert_last and ask(charge, _LAST_RESORT_ACTIONS).admitted:
                return _ModelChoice(model, charge, first, Action.ALERT)
        refusing = next(standing for standing in first if standing.action is not Action.ALERT)
        raise BudgetExceededError.of(refusing, subject.caller[0], first_charge.amount(refusing.key.unit))

    def _emit_rejection(self, ticket: Ticket, error: BudgetExceededError) -> None:
        standing = error.standing
        if standing is not None:
            self._budgets.emit_budget_event(lambda at: BudgetExceeded(at, ticket, Action.REJECT, (standing,), None))
