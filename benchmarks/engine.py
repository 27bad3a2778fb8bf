"""The shared engine: what an acquire costs beside a round trip, and what its script grants in a second."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

from benchmarks.engine_script import measure_throughput
from benchmarks.redis_process import Address, start_proxy, start_server
from loco_otel._core.policies.registry import make_policy_factory
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import Ticket
from loco_otel._engine.redis.engine import EngineOptions, RedisEngine
from loco_otel._engine.shared_limits import SharedLimits
from loco_otel.events import MILLI, Request

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
        "acquire, asyncio": _measure_asyncio(at, count),
        "release to grant in another process": _measure_handover(at, count),
    }
    print(f"\n{title}: wall time, median")
    for name, seconds in times.items():
        print(f"  {name:<35}  {seconds * 1e6:10.0f} us  x{seconds / least:.2f}")
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


def _measure_thread(at: Address, count: int) -> float:
    with _open_engine(at, "thread") as engine:
        engine.release(_acquire(engine))
        seconds = []
        for _ in range(count):
            begin = time.perf_counter()
            ticket = _acquire(engine)
            seconds.append(time.perf_counter() - begin)
            engine.release(ticket)
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
