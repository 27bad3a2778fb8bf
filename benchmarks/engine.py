"""The shared engine: what an acquire costs beside a round trip, and what its script grants in a second."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from statistics import median

from benchmarks.engine_script import measure_throughput
from benchmarks.redis_process import Address, start_proxy, start_server
from loco_otel._budgets.controller import BudgetController
from loco_otel._budgets.reservation import ChargeContext, Estimate, Reservation
from loco_otel._config.settings import Settings
from loco_otel._core.policies.registry import make_policy_factory
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.redis.engine import EngineOptions, RedisEngine
from loco_otel._engine.shared_limits import SharedLimits
from loco_otel._waiting import aio, threads
from loco_otel.events import MILLI, Request, Usage

_ONE_WAY = 0.005
"""Seconds by which the proxy delays each direction."""
_LINE = ("llm",)


def run() -> dict[str, float]:
    """Measure, print, and return the ratios by name."""
    ratios = {}
    with start_server() as server:
        with start_proxy(server, _ONE_WAY) as far:
            ratios |= _measure_latency("Through a proxy that takes 10 ms", far, "PING", _measure_pings(far, 100), 100)
        ratios |= _measure_latency("On loopback", server, "EVALSHA return 1", _measure_least_script(server), 1000)
        ratios |= measure_throughput(server)
    return ratios


def _measure_latency(title: str, at: Address, baseline: str, least: float, count: int) -> dict[str, float]:
    """Print and return what an acquire and a handover take, as multiples of the baseline."""
    times = {
        baseline: least,
        "acquire, thread": _measure_thread(at, count),
        "acquire after an answered release, thread": _measure_thread(at, count, is_alone=True),
        "acquire, asyncio": _measure_asyncio(at, count),
        "acquire with a budget, thread": _measure_budgeted_thread(at, count),
        "acquire with a budget, asyncio": _measure_budgeted_asyncio(at, count),
        "release to grant in another process": _measure_handover(at, count),
    }
    print(f"\n{title}: wall time, median")
    for name, seconds in times.items():
        print(f"  {name:<41}  {seconds * 1e6:10.0f} us  x{seconds / least:.2f}")
    return {f"{title}: {name}": seconds / least for name, seconds in times.items()}


def _time_each(step: Callable[[], object], count: int) -> float:
    """Return the median of the seconds that a step takes."""
    seconds = []
    for _ in range(count):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    return median(seconds)


def _measure_pings(at: Address, count: int) -> float:
    with at.connect() as client:
        return _time_each(client.ping, count)


def _measure_least_script(at: Address) -> float:
    with at.connect() as client:
        return _time_each(client.register_script("return 1"), 2000)


@contextmanager
def _open_engine(at: Address, namespace: str) -> Iterator[RedisEngine]:
    limits = SharedLimits(1, "load", 0.25, 1000)
    policy = make_policy_factory(limits.policy, alpha=limits.alpha, shares=limits.shares, draw=lambda: 0.5)
    engine = RedisEngine(
        Scheduler({_LINE[0]: limits.capacity}, policy), EngineOptions(at.url, namespace, timeout=5.0), {"llm": limits}
    )
    try:
        yield engine
    finally:
        engine.close()
        engine.leave()


def _acquire(engine: RedisEngine) -> Ticket:
    ticket = engine.create_ticket(Request("agent", MILLI, _LINE))
    granted = threading.Event()
    engine.submit(ticket)
    engine.park_ticket(ticket, granted.set, ())
    granted.wait()
    return ticket


def _measure_thread(at: Address, count: int, *, is_alone: bool = False) -> float:
    """Measure an acquire while the server ends the call before it; or, if `is_alone`, once that is answered."""
    with _open_engine(at, "thread") as engine:
        engine.release(_acquire(engine))
        seconds = []
        for _ in range(count):
            begin = time.perf_counter()
            ticket = _acquire(engine)
            seconds.append(time.perf_counter() - begin)
            engine.release(ticket)
            while is_alone and engine._link.log.oldest_sent_at < inf:
                time.sleep(0.0002)
        return median(seconds)


def _measure_asyncio(at: Address, count: int) -> float:
    async def acquire(engine: RedisEngine) -> Ticket:
        loop = asyncio.get_running_loop()
        granted = loop.create_future()
        ticket = engine.create_ticket(Request("agent", MILLI, _LINE))
        engine.submit(ticket)
        engine.park_ticket(ticket, lambda: loop.call_soon_threadsafe(granted.set_result, None), ())
        await granted
        return ticket

    async def measure(engine: RedisEngine) -> float:
        seconds = []
        for _ in range(count):
            begin = time.perf_counter()
            ticket = await acquire(engine)
            seconds.append(time.perf_counter() - begin)
            engine.release(ticket)
        return median(seconds)

    with _open_engine(at, "asyncio") as engine:
        engine.release(_acquire(engine))
        return asyncio.run(measure(engine))


@contextmanager
def _open_budgets(at: Address, namespace: str) -> Iterator[Callable[[], tuple[Ticket, Reservation]]]:
    """Yield what submits a call with a budget, as a patched call does."""
    budget = {"scope": "all", "unit": "weight", "period": "total", "limit": 1e9}
    variables = {"LOCO_ENGINE": at.url, "LOCO_ENGINE_NAMESPACE": namespace, "LOCO_ENGINE_TIMEOUT": "5"}
    with _open_engine(at, namespace) as engine:
        budgets = BudgetController(Settings.load(variables).changed(budgets=[budget]), engine)
        context = ChargeContext(
            ("agent", *[None] * 5), "openai", None, "gpt-4o", lambda _: Estimate(Usage(1, 1), MILLI), lambda _: True
        )

        def submit() -> tuple[Ticket, Reservation]:
            reservation = Reservation(budgets, context)
            ticket = engine.create_ticket(Request("agent", MILLI, _LINE, admission=True))
            ticket.engine, ticket.admission = engine, reservation.admit_call
            if budgets.ledger_client.must_not_wait:
                ticket.run_admission = reservation.start_admission
            engine.submit(ticket)
            if ticket.state is State.WAITING:
                reservation.begin_wait(ticket)
            return ticket, reservation

        try:
            ticket, reservation = submit()
            threads.wait_until_decided(engine, ticket)
            _end_budgeted(ticket, reservation)
            yield submit
        finally:
            budgets.close()


def _end_budgeted(ticket: Ticket, reservation: Reservation) -> None:
    reservation.cancel(ticket)
    ticket.engine.release(ticket)


def _measure_budgeted_thread(at: Address, count: int) -> float:
    with _open_budgets(at, "budgeted-thread") as submit:
        seconds = []
        for _ in range(count):
            begin = time.perf_counter()
            ticket, reservation = submit()
            threads.wait_until_decided(ticket.engine, ticket)
            seconds.append(time.perf_counter() - begin)
            _end_budgeted(ticket, reservation)
        return median(seconds)


def _measure_budgeted_asyncio(at: Address, count: int) -> float:
    async def measure(submit: Callable[[], tuple[Ticket, Reservation]]) -> float:
        seconds = []
        for _ in range(count):
            begin = time.perf_counter()
            ticket, reservation = submit()
            await aio.wait_until_decided(ticket.engine, ticket)
            seconds.append(time.perf_counter() - begin)
            await asyncio.to_thread(_end_budgeted, ticket, reservation)
        return median(seconds)

    with _open_budgets(at, "budgeted-asyncio") as submit:
        return asyncio.run(measure(submit))


def _measure_handover(at: Address, count: int) -> float:
    with _open_engine(at, "handover") as one, _open_engine(at, "handover") as other:
        lease, seconds = _acquire(one), []
        holder, waiter = one, other
        for _ in range(count):
            ticket = waiter.create_ticket(Request("agent", MILLI, _LINE))
            granted = threading.Event()
            waiter.submit(ticket)
            waiter.park_ticket(ticket, granted.set, ())
            while ticket.is_unanswered:
                time.sleep(0.0005)
            begin = time.perf_counter()
            holder.release(lease)
            granted.wait()
            seconds.append(time.perf_counter() - begin)
            lease, holder, waiter = ticket, waiter, holder
        holder.release(lease)
        return median(seconds)
