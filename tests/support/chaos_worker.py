"""Processes of a chaos run: many tasks that take slots, and a record of when each held one.

The record is what a process itself did: `G` is written after a grant, `R` before the release. The program forks a
worker for each number that it reads, so that a worker starts at once. At the end of its input it waits for all of
them; it fails if one of them failed in another way than by kill -9.
"""

import asyncio
import os
import random
import signal
import struct
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

from shared_engine import LLM, make_engine

from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.redis.engine import RedisEngine
from loco_otel._engine.shared_limits import SharedLimits
from loco_otel.events import Request

RECORD = struct.Struct("=cId")
_AGENTS = 10


async def wait_decided(engine: RedisEngine, ticket: Ticket) -> None:
    loop = asyncio.get_running_loop()
    decided = loop.create_future()

    def wake() -> None:
        loop.call_soon_threadsafe(lambda: decided.done() or decided.set_result(None))

    engine.park_ticket(ticket, wake, ())
    await decided


async def take_slots(engine: RedisEngine, rng: random.Random, log: int, hold: float, stop: Path) -> None:
    while not stop.exists():  # noqa: ASYNC240 - a stat blocks no longer than the rest
        timeout = rng.choice([None] * 18 + [0.0, 0.02])
        agent = f"agent{rng.randrange(_AGENTS)}"
        ticket = engine.create_ticket(Request(agent, rng.choice([1000, 1000, 3000]), LLM, timeout))
        try:
            engine.submit(ticket)
            patience = rng.random() * 0.05 if rng.random() < 0.05 else None
            with suppress(TimeoutError):
                await asyncio.wait_for(wait_decided(engine, ticket), patience)
            if ticket.state is State.GRANTED:
                os.write(log, RECORD.pack(b"G", ticket.seq, time.monotonic()))
                await asyncio.sleep(rng.random() * 2 * hold)
                os.write(log, RECORD.pack(b"R", ticket.seq, time.monotonic()))
        finally:
            engine.cancel(ticket)


async def work(url: str, namespace: str, folder: str, number: str, options: dict[str, str]) -> None:
    rate = float(options["requests"]) if "requests" in options else None
    limits = SharedLimits(int(options["capacity"]), options["policy"], 0.25, 200, requests_per_minute=rate)
    engine = make_engine(
        url, namespace, limits, ttl=float(options["ttl"]), timeout=float(options["timeout"]), on_error=options["mode"]
    )
    log = os.open(f"{folder}/{number}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    rng = random.Random(int(number))
    stop, hold = Path(folder) / "stop", float(options["hold"])
    await asyncio.gather(*(take_slots(engine, rng, log, hold, stop) for _ in range(int(options["tasks"]))))
    assert engine.list_tickets() == ()
    engine.close()
    engine.leave()


def start_workers(url: str, namespace: str, folder: str, options: dict[str, str]) -> int:
    for line in sys.stdin:
        number = line.strip()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                asyncio.run(work(url, namespace, folder, number, options))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
    failed = 0
    with suppress(ChildProcessError):
        while True:
            failed += os.wait()[1] not in {0, signal.SIGKILL}
    return failed


if __name__ == "__main__":
    given = dict(word.split("=", 1) for word in sys.argv[4:])
    sys.exit(start_workers(sys.argv[1], sys.argv[2], sys.argv[3], given))
