"""Reservations that are made with the check of a waiter, as the shared engine has granted its slot by then."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis_server import RedisServer
from shared_engine import LLM, acquire, make_engine, wait_queued, wait_until

from loco_otel._budgets.controller import BudgetController
from loco_otel._budgets.redis import link
from loco_otel._budgets.redis.ledger import RedisLedger
from loco_otel._budgets.redis.pending import PendingStep
from loco_otel._budgets.reservation import ActualCost, ChargeContext, Estimate, Reservation
from loco_otel._config.settings import Settings
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.redis.engine import RedisEngine
from loco_otel._engine.shared_limits import SharedLimits
from loco_otel._waiting import aio, threads
from loco_otel.errors import BudgetExceededError
from loco_otel.events import Request, Usage

AMOUNT = 10
LIMIT = 100


class Process:
    """An engine and budgets on one server, as one process has them."""

    def __init__(self, server: RedisServer, namespace: str, capacity: int = 1, **variables: str) -> None:
        limits = SharedLimits(capacity, "load", 0.25, 1000)
        self.engine: RedisEngine = make_engine(server.url, namespace, limits, ttl=60.0, timeout=60.0)
        rules = [{"unit": "weight", "period": "total", "limit": LIMIT / 1000, "scope": "all"}]
        variables |= {"LOCO_ENGINE": server.url, "LOCO_ENGINE_NAMESPACE": namespace, "LOCO_ENGINE_TIMEOUT": "10"}
        self.budgets = BudgetController(Settings.load(variables).changed(budgets=rules), self.engine)
        self.answered, self.may_apply = threading.Event(), threading.Event()
        self.may_apply.set()
        apply = self.engine.apply_reply

        def apply_reply(*arguments: Any) -> None:
            self.answered.set()
            self.may_apply.wait()
            apply(*arguments)

        self.engine.apply_reply = apply_reply  # type: ignore[method-assign]
        self.engine.release(acquire(self.engine))  # the next request is one step
        self.read_amounts()

    @property
    def ledger(self) -> RedisLedger:
        ledger = self.budgets.ledger_client.ledger
        assert isinstance(ledger, RedisLedger)
        return ledger

    def create_call(self, amount: int = AMOUNT) -> tuple[Ticket, Reservation]:
        def estimate(_: str | None) -> Estimate:
            return Estimate(Usage(1, 1), amount)

        caller = ("agent", None, None, None, None, None)
        reservation = Reservation(self.budgets, ChargeContext(caller, "p", None, "m", estimate, lambda _: True))
        ticket = self.engine.create_ticket(Request("agent", 1000, LLM, admission=True))
        ticket.engine, ticket.admission = self.engine, reservation.admit_call
        return ticket, reservation

    def submit_unseen(self, amount: int = AMOUNT) -> tuple[Ticket, Reservation]:
        """Submit a call that the server has granted, while this process has not applied the grant."""
        call = self.create_call(amount)
        self.answered.clear()
        self.may_apply.clear()
        self.engine.submit(call[0])
        self.answered.wait()
        return call

    def reserve(self, amount: int) -> None:
        """Reserve for a call that has its slot."""
        ticket, reservation = self.create_call(amount)
        reservation.admit_call(ticket)

    def read_amounts(self) -> tuple[int, int]:
        """Return what is spent and reserved."""
        (status,) = self.budgets.read_statuses()
        return status.spent, status.reserved

    def end(self, ticket: Ticket, reservation: Reservation, amount: int = AMOUNT) -> None:
        reservation.settle_cost(ticket, ActualCost(Usage(1, 1), amount, "m", None))
        self.budgets.untrack_waiter(ticket)
        self.engine.release(ticket)

    def drop(self, ticket: Ticket, reservation: Reservation) -> None:
        reservation.cancel(ticket)
        self.budgets.untrack_waiter(ticket)
        self.engine.cancel(ticket)

    def close(self) -> None:
        self.may_apply.set()
        self.engine.close()
        self.engine.leave()
        self.budgets.close()


Start = Callable[..., Process]


@pytest.fixture
def start(shared_server: RedisServer, namespace: str) -> Iterator[Start]:
    processes: list[Process] = []

    def create(*arguments: Any, **variables: str) -> Process:
        processes.append(Process(shared_server, namespace, *arguments, **variables))
        return processes[-1]

    yield create
    for process in processes:
        process.close()


def forbid_reserving(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    def reserve(*_: object) -> None:
        raise AssertionError("another round trip")

    monkeypatch.setattr(process.ledger, "reserve_estimate", reserve)


def test_check_of_a_granted_call_reserves(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start()
    forbid_reserving(process, monkeypatch)
    ticket, reservation = process.submit_unseen()
    reservation.begin_wait(ticket)
    assert process.read_amounts() == (0, AMOUNT)
    process.may_apply.set()
    threads.wait_until_decided(process.engine, ticket)
    assert ticket.state is State.GRANTED
    assert process.read_amounts() == (0, AMOUNT)
    process.end(ticket, reservation, 7)
    assert process.read_amounts() == (7, 0)


def test_check_of_a_queued_call_reserves_nothing(start: Start) -> None:
    process = start()
    holder = acquire(process.engine)
    ticket, reservation = process.create_call()
    process.engine.submit(ticket)
    wait_queued(ticket)
    reservation.begin_wait(ticket)
    assert process.read_amounts() == (0, 0)
    process.engine.release(holder)
    threads.wait_until_decided(process.engine, ticket)
    assert process.read_amounts() == (0, AMOUNT)
    process.end(ticket, reservation)


def test_no_room_beside_reservations_refuses_as_before(start: Start) -> None:
    process = start()
    process.reserve(LIMIT - AMOUNT + 1)
    ticket, reservation = process.submit_unseen()
    reservation.begin_wait(ticket)
    assert ticket.state is State.WAITING, "as long as what is reserved may end"
    process.may_apply.set()
    with pytest.raises(BudgetExceededError):
        threads.wait_until_decided(process.engine, ticket)
    process.drop(ticket, reservation)
    assert process.read_amounts() == (0, LIMIT - AMOUNT + 1)
    process.engine.release(acquire(process.engine))


def test_call_without_room_is_rejected_with_its_slot(start: Start) -> None:
    process = start()
    ticket, reservation = process.submit_unseen(LIMIT + 1)
    reservation.begin_wait(ticket)
    with pytest.raises(BudgetExceededError):
        threads.wait_until_decided(process.engine, ticket)
    process.may_apply.set()
    process.drop(ticket, reservation)
    assert process.read_amounts() == (0, 0)
    process.engine.release(acquire(process.engine))


def test_reserved_waiter_is_not_checked_again(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start()
    ticket, reservation = process.submit_unseen()
    reservation.begin_wait(ticket)
    monkeypatch.setattr(process.ledger, "check_estimate", None)
    other, spender = process.create_call()
    spender.settle_cost(other, ActualCost(Usage(1, 1), LIMIT, "m", None))
    process.may_apply.set()
    threads.wait_until_decided(process.engine, ticket)
    assert ticket.state is State.GRANTED
    process.end(ticket, reservation)


@pytest.mark.parametrize("when", ["after", "during"])
def test_cancelled_call_keeps_no_reservation(start: Start, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start()
    ticket, reservation = process.submit_unseen()
    if when == "during":
        check = process.budgets.ledger_client.check_waiter

        def check_and_cancel(*arguments: Any) -> object:
            reservation.cancel(ticket)  # as another thread does
            return check(*arguments)

        monkeypatch.setattr(process.budgets.ledger_client, "check_waiter", check_and_cancel)
    reservation.begin_wait(ticket)
    process.drop(ticket, reservation)
    process.may_apply.set()
    assert process.read_amounts() == (0, 0)
    process.engine.release(acquire(process.engine))


class InterruptedStep(PendingStep):
    """A step whose caller is interrupted while it waits."""

    def wait(self, seconds: float) -> bool:
        if threading.current_thread() is threading.main_thread():  # as Python does; the engine's timer waits too
            raise KeyboardInterrupt
        return super().wait(seconds)


@pytest.mark.parametrize("is_waiter", [True, False])
def test_interrupted_caller_keeps_no_reservation(
    start: Start, *, is_waiter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start()
    ticket, reservation = process.submit_unseen()
    with monkeypatch.context() as patch:
        patch.setattr(link, "PendingStep", InterruptedStep)
        with process.ledger._link.lock:  # the answer comes after the end of the call
            with pytest.raises(KeyboardInterrupt):
                (reservation.begin_wait if is_waiter else reservation.admit_call)(ticket)
            process.drop(ticket, reservation)
    process.ledger._link.beat()
    process.may_apply.set()
    wait_until(lambda: process.read_amounts() == (0, 0))
    assert not process.ledger._link.holds


def test_interrupt_after_the_answer_keeps_no_reservation(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start()
    ticket, reservation = process.submit_unseen()
    check = process.ledger.check_estimate

    def interrupt(*arguments: Any) -> object:
        check(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(process.ledger, "check_estimate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        reservation.begin_wait(ticket)
    assert process.read_amounts() == (0, AMOUNT)
    process.drop(ticket, reservation)
    assert process.read_amounts() == (0, 0)


def test_ledger_elsewhere_checks_alone(start: Start, shared_server: RedisServer) -> None:
    process = start(LOCO_LEDGER=f"{shared_server.url}/1")
    assert not process.ledger._server.engine
    ticket, reservation = process.submit_unseen()
    reservation.begin_wait(ticket)
    assert process.read_amounts() == (0, 0)
    process.may_apply.set()
    threads.wait_until_decided(process.engine, ticket)
    assert process.read_amounts() == (0, AMOUNT)
    process.end(ticket, reservation)


def test_threads_of_two_processes_leave_nothing_reserved(start: Start) -> None:
    processes = [start(3), start(3)]
    spent: list[int] = []

    def call(process: Process, number: int) -> None:
        ticket, reservation = process.create_call()
        process.engine.submit(ticket)
        try:
            if ticket.state is State.WAITING:
                reservation.begin_wait(ticket)
            threads.wait_until_decided(process.engine, ticket)
        except BudgetExceededError:
            process.drop(ticket, reservation)
            return
        if number % 3 == 0:
            process.drop(ticket, reservation)
        else:
            spent.append(AMOUNT)
            process.end(ticket, reservation)

    callers = [threading.Thread(target=call, args=(processes[it % 2], it)) for it in range(60)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert processes[0].read_amounts() == (sum(spent), 0)
    assert sum(spent) <= LIMIT


def test_tasks_that_are_cancelled_leave_nothing_reserved(start: Start) -> None:
    process = start(3)

    async def call(number: int) -> None:
        ticket, reservation = process.create_call(1)
        ticket.run_admission = reservation.start_admission
        process.engine.submit(ticket)
        try:
            if ticket.state is State.WAITING:
                reservation.begin_wait(ticket)
            await aio.wait_until_decided(process.engine, ticket)
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            reservation.settle_in_finalizer(ticket, None)
            process.budgets.untrack_waiter(ticket)
            raise
        finally:
            process.drop(ticket, reservation)

    async def run() -> None:
        tasks = [asyncio.create_task(call(number)) for number in range(60)]
        for task in tasks[::2]:
            await asyncio.sleep(0)
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(it) for it in results} <= {type(None), asyncio.CancelledError}

    asyncio.run(run())
    wait_until(lambda: process.read_amounts() == (0, 0))
    process.engine.release(acquire(process.engine))
