"""One call's money: whether it is let in, with which model, and what it took in the end."""

import logging
import os
from collections.abc import Callable, Collection
from typing import NamedTuple, TypeAlias

from loco_otel._budgets.account import Decision
from loco_otel._budgets.controller import Budgets
from loco_otel._core.ticket import Ticket
from loco_otel.errors import BudgetExceededError, LedgerError
from loco_otel.events import BudgetExceeded, Usage
from loco_otel.money import Action, Charge, Standing, Unit

_logger = logging.getLogger("loco_otel")

_ALERT = (Action.ALERT,)
_AT_THE_END = (Action.ALERT, Action.DOWNGRADE)


class Estimate(NamedTuple):
    """What a call will probably take."""

    usage: Usage
    weight: int
    """Milli-weights."""


class Subject(NamedTuple):
    """What is bought, of whom and for whom."""

    caller: tuple[str, str | None, str | None, str | None, str | None]
    """Agent, tenant, team, workflow, session."""
    provider: str
    host: str | None
    model: str | None
    estimate: Callable[[str | None], Estimate]
    """By the model that it is sent with."""
    may_send: Callable[[str], bool]
    """Whether another model is to be had at the same place, under the same resources."""
    service_tier: str | None = None
    """What is asked for, where that makes it dearer."""


class Bill(NamedTuple):
    """What a call took."""

    usage: Usage
    weight: int
    """Milli-weights."""
    model: str | None
    """As the provider answered."""
    service_tier: str | None


class Paid(NamedTuple):
    """What was paid for a call."""

    usd: int | None
    """Micro-USD; None where the model's price is not known."""
    remaining: int | None
    """What the tightest of its budgets in USD has left; None without one."""
    action: Action | None
    """What a budget without room for it did."""


class _Choice(NamedTuple):
    model: str | None
    charge: Charge
    over: tuple[Standing, ...]
    """The budgets without room for the model that was asked for."""
    action: Action | None
    """What was done for their sake."""


_Ask: TypeAlias = Callable[[Charge, Collection[Action]], Decision]


class Purchase:
    """Pays for one call: asked before it is sent, and told what it took, once."""

    __slots__ = ("_budgets", "_charge", "_open", "_process", "_reserved", "_subject", "action", "model")

    def __init__(self, budgets: Budgets, subject: Subject) -> None:
        self._budgets = budgets
        self._subject = subject
        self._charge: Charge | None = None
        self._open = True
        self._process = os.getpid()
        self._reserved = False
        self.model = subject.model
        """What it is sent with."""
        self.action: Action | None = None
        """What its budgets did with it."""

    def wait(self, ticket: Ticket) -> None:
        """Note that it waits for its slot, and turn it away if that is in vain."""
        charge = self._charge = self._estimated(self.model)
        self._budgets.wait(ticket, charge, self._refusal)

    def admit(self, ticket: Ticket) -> bool:
        """Reserve what it is estimated to take; the engine asks once there is a slot.

        Raises:
            BudgetExceededError: there is no room for it.
            LedgerError: nobody can tell, and calls are not let through unseen.

        """
        if self._reserved:
            return True  # the wait after a retry's pause
        try:
            choice = self._choose(lambda charge, passing: self._budgets.books.reserve(ticket, charge, passing))
        except BudgetExceededError as error:
            self._tell_refusal(ticket, error)
            raise
        except LedgerError as error:
            if self._budgets.closed:
                error.agent = self._subject.caller[0]
                raise
            _logger.warning("a call is let in without a look at its budget, as ledger_on_error is open: %s", error)
            return True
        self._reserved = True
        self._charge, self.model, self.action = choice.charge, choice.model, choice.action
        action = choice.action
        if action is not None:
            self._budgets.note(lambda at: BudgetExceeded(at, ticket, action, choice.over, choice.model))
        return True

    @property
    def open(self) -> bool:
        """Whether it is still to be paid, or given back: by the process that made the call, not by a fork of it."""
        return self._open and self._process == os.getpid()

    def settle(self, ticket: Ticket, bill: Bill) -> Paid:
        """Spend what it took."""
        self._open = False
        charge = self._charged(bill)
        standings = self._budgets.settle(ticket, charge)
        left = [standing.limit - standing.spent for standing in standings if standing.key.unit is Unit.USD]
        return Paid(charge.usd, min(left, default=None), self.action)

    def give_back(self, ticket: Ticket) -> None:
        """Note that it took nothing."""
        if self.open:
            self._open = False
            self._budgets.books.give_back(ticket)

    def drop(self, ticket: Ticket, bill: Bill | None) -> Paid:
        """Do as `settle`, or as `give_back` without a bill, a little later.

        For finalisers: takes no lock, logs and loads nothing.
        """
        charge = None if bill is None else self._charged(bill, quietly=True)
        if self.open:
            self._open = False
            self._budgets.books.settle_later(ticket, charge)
        return Paid(None if charge is None else charge.usd, None, self.action)

    def _charged(self, bill: Bill, *, quietly: bool = False) -> Charge:
        subject = self._subject
        usd = self._budgets.prices.cost(
            subject.provider,
            (bill.model, self.model),
            bill.usage,
            host=subject.host,
            service_tier=bill.service_tier,
            quietly=quietly,
        )
        return self._made(self.model or bill.model, usd, bill.weight, bill.usage)

    def _estimated(self, model: str | None) -> Charge:
        subject = self._subject
        usage, weight = subject.estimate(model)
        usd = self._budgets.prices.cost(
            subject.provider, (model,), usage, host=subject.host, service_tier=subject.service_tier
        )
        return self._made(model, usd, weight, usage)

    def _made(self, model: str | None, usd: int | None, weight: int, usage: Usage) -> Charge:
        agent, tenant, team, workflow, session = self._subject.caller
        return Charge(
            agent,
            tenant,
            team,
            model,
            usd,
            weight,
            self._subject.provider,
            workflow,
            session,
            usage.input_tokens,
            usage.output_tokens,
            usage.estimated,
        )

    def _refusal(self, ticket: Ticket) -> Exception | None:
        """Tell why it will not be let in within the period; None while it may, or while nobody knows."""
        try:
            self._choose(self._budgets.judge)
        except BudgetExceededError as error:
            self._tell_refusal(ticket, error)
            return error
        except LedgerError:
            return None  # who is asked once there is a slot decides
        return None

    def _choose(self, ask: _Ask) -> _Choice:
        """Find the first model of the ladder that all budgets have room for.

        Raises:
            BudgetExceededError: there is none, or a budget without room refuses rather than to go down the ladder.
            LedgerError: the ledger can't be used now.

        """
        subject = self._subject
        charge = self._charge or self._estimated(subject.model)
        decision = ask(charge, _ALERT)
        if decision.admitted:
            return _Choice(subject.model, charge, decision.over, Action.ALERT if decision.over else None)
        first, first_charge = decision.over, charge
        model = subject.model
        if all(standing.action is not Action.REJECT for standing in first):
            for cheaper in filter(subject.may_send, self._budgets.ladder(subject.model)):
                model, charge = cheaper, self._estimated(cheaper)
                if ask(charge, _ALERT).admitted:
                    return _Choice(model, charge, first, Action.DOWNGRADE)
            if self._budgets.ends_in_alert and ask(charge, _AT_THE_END).admitted:
                return _Choice(model, charge, first, Action.ALERT)
        refusing = next(standing for standing in first if standing.action is not Action.ALERT)
        raise BudgetExceededError.of(refusing, subject.caller[0], first_charge.amount(refusing.key.unit))

    def _tell_refusal(self, ticket: Ticket, error: BudgetExceededError) -> None:
        standing = error.standing
        if standing is not None:
            self._budgets.note(lambda at: BudgetExceeded(at, ticket, Action.REJECT, (standing,), None))
