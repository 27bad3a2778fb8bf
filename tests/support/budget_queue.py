"""Calls that wait for a slot under budgets in weight, each with its reservation."""

from collections.abc import Callable

from loco_otel._budgets.account import Decision
from loco_otel._budgets.controller import BudgetController
from loco_otel._budgets.reservation import ChargeContext, Estimate, Reservation
from loco_otel._config.settings import Settings
from loco_otel._core.policies.registry import make_policy_factory
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.in_process import InProcessEngine
from loco_otel.events import Request, Usage
from loco_otel.money import Charge
from loco_otel.testing import ManualClock

WEIGHTS = {"big": 10_000, "mid": 5_000, "mini": 3_000, "tiny": 1_000}
LADDER = {"big": ["mid", "mini"]}
NOON = 43_200.0


class BudgetQueue:
    """Calls that wait, as all slots are held, under budgets in weight."""

    def __init__(self, *budgets: dict[str, object], **settings: object) -> None:
        core = Scheduler({"llm_api": 1}, make_policy_factory("fifo", alpha=0.25, shares={}, draw=lambda: 0.5))
        self.engine = InProcessEngine(core, clock=ManualClock(), timer=False)
        self.engine.submit(self.engine.create_ticket(Request("holder")))
        self.now = NOON
        rules = [{"unit": "weight", "period": "total", **budget} for budget in budgets]
        loaded = Settings.load({}).changed(budgets=rules, downgrade=LADDER, **settings)
        self.budgets = BudgetController(loaded, self.engine, lambda: self.now)
        self.waiting: dict[Ticket, Reservation] = {}
        self.checks = 0
        self.budgets.check_waiter = self._count(self.budgets.check_waiter)  # type: ignore[method-assign]
        self.budgets.check_estimate = self._count(self.budgets.check_estimate)  # type: ignore[method-assign]

    def _count(self, check: Callable[..., Decision]) -> Callable[..., Decision]:
        def count_check(*arguments: object) -> Decision:
            self.checks += 1
            return check(*arguments)

        return count_check

    def wait(self, run: str, model: str = "big", agent: str = "a") -> Ticket:
        """Let a call wait."""
        ticket, reservation = self.create_call(run, model, agent)
        self.engine.submit(ticket)
        self.waiting[ticket] = reservation
        reservation.begin_wait(ticket)
        return ticket

    def create_call(self, run: str, model: str, agent: str) -> tuple[Ticket, Reservation]:
        """Return a new call, not submitted yet."""

        def estimate(model: str | None) -> Estimate:
            return Estimate(Usage(1, 1), WEIGHTS[str(model)])

        caller = agent, None, None, None, None, run
        reservation = Reservation(self.budgets, ChargeContext(caller, "p", None, model, estimate, lambda _: True))
        return self.engine.create_ticket(Request(agent, run=run, model=model)), reservation

    def charge(self, run: str, weight: int, model: str = "big", agent: str = "a") -> None:
        """Spend a weight, in milli-weights."""
        ticket = self.engine.create_ticket(Request(agent))
        self.budgets.settle_charge(ticket, Charge(agent, None, None, model, None, weight, run=run))

    def list_overlooked(self) -> list[Ticket]:
        """Return the calls that wait although no budget can admit them."""
        found: list[Ticket] = []
        for ticket, reservation in self.waiting.items():
            if ticket.state is State.WAITING and reservation._find_rejection(ticket) is not None:
                found.append(ticket)
        return found
