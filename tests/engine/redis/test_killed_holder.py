"""The slot of a process that is killed is granted elsewhere once its lease time has passed, and little later."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from effort import scale
from redis_server import RedisServer
from shared_engine import Make, submit, wait_decided, wait_queued

from loco_otel._core.ticket import State

SUPPORT = Path(__file__).parents[2] / "support"

HOLDER = """
import signal, sys
from shared_engine import acquire, make_engine
url, namespace, ttl = sys.argv[1:]
engine = make_engine(url, namespace, ttl=float(ttl), timeout=10.0)
acquire(engine)
print("held", flush=True)
signal.pause()  # until it is killed
"""
MARGIN = 0.25
"""Seconds after the lease time."""


class Lateness:
    """How late this machine is: the most that a thread's sleep and a command of the server took too long."""

    def __init__(self, server: RedisServer) -> None:
        self.seconds = 0.0
        self._server = server

    @contextmanager
    def measure(self) -> Iterator[None]:
        ended = threading.Event()

        def watch() -> None:
            begin = time.monotonic()
            while not ended.wait(0.01):
                self._server.call("PING")
                now = time.monotonic()
                self.seconds, begin = max(self.seconds, now - begin - 0.01), now

        thread = threading.Thread(target=watch)
        thread.start()
        yield
        ended.set()
        thread.join()


@pytest.mark.parametrize(("ttl", "kills"), [(1.0, scale(3)), (5.0, scale(1))], ids=["1 s", "5 s"])
def test_killed_holder_frees_its_slot_in_time(
    ttl: float, kills: int, make: Make, shared_server: RedisServer, namespace: str
) -> None:
    engine = make(ttl=ttl)
    arguments = [sys.executable, "-c", HOLDER, shared_server.url, namespace, str(ttl)]
    for _ in range(kills):
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(SUPPORT)}) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            waiter, lateness = wait_queued(submit(engine)), Lateness(shared_server)
            with lateness.measure():
                holder.kill()
                killed = time.monotonic()
                assert wait_decided(engine, waiter).state is State.GRANTED
                took = time.monotonic() - killed
        engine.release(waiter)
        # Each of sending, granting and waking may be late on a busy machine.
        assert took <= ttl + MARGIN + 3 * lateness.seconds, f"{lateness.seconds:.3f} s late"
        assert took >= ttl / 2, "its last renewal was a third of the lease time ago at most"
