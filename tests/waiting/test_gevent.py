"""Slots among greenlets."""

import pytest
from slot_program import run_program

GREENLETS = """
import gevent, gevent.event
engine = configured(1)

# As in every server, something else always runs: gevent reports a deadlock where all greenlets wait for a real thread,
# as they may here for the timer's.
def tick():
    while True:
        gevent.sleep(0.01)
gevent.spawn(tick)

# Contended: one at a time, though others run in the midst of each body.
inside, seen = [0], set()
def call(number):
    for _ in range(5):
        with slot(f"agent-{number % 3}"):
            inside[0] += 1
            seen.add(inside[0])
            gevent.sleep(0)
            inside[0] -= 1
gevent.joinall([gevent.spawn(call, number) for number in range(20)], raise_error=True)
assert seen == {1}, seen
check_full_capacity()

# While one waits, others run: the holder leaves when a third one says so, and that one starts last.
leave = gevent.event.Event()
held = gevent.event.Event()
def hold():
    with slot("holder"):
        held.set()
        leave.wait()
def wait():
    with slot("waiter"):
        pass
holder = gevent.spawn(hold)
held.wait()
waiter = gevent.spawn(wait)
while counts() != (1, 1):
    gevent.sleep(0)
assert not waiter.ready()
gevent.spawn(leave.set)
gevent.joinall([holder, waiter], raise_error=True)
check_full_capacity()

# A deadline ends a wait, while others run.
leave.clear()
held.clear()
holder = gevent.spawn(hold)
held.wait()
def wait_in_vain():
    try:
        with slot("waiter", timeout=0.05):
            raise AssertionError("nothing is free")
    except AcquireTimeoutError:
        return "timed out"
waiter = gevent.spawn(wait_in_vain)
turns = 0
while not waiter.ready():
    turns += 1
    gevent.sleep(0)
assert waiter.get() == "timed out"
assert turns > 1
assert counts() == (1, 0)

# A killed greenlet leaves the line.
waiter = gevent.spawn(wait)
while counts() != (1, 1):
    gevent.sleep(0)
waiter.kill()
assert counts() == (1, 0)
leave.set()
holder.join()
check_full_capacity()

# A second slot within the first shares it; the greenlets of one thread are not taken for each other.
def nest():
    with slot("a"):
        with slot("a"):
            pass
gevent.joinall([gevent.spawn(nest) for _ in range(5)], raise_error=True)
check_full_capacity()

# Real threads stand in the same line.
holder = gevent.spawn(hold)
held.clear(), leave.clear()
held.wait()
in_thread = gevent.get_hub().threadpool.spawn(wait)
while counts() != (1, 1):
    gevent.sleep(0)
leave.set()
in_thread.get()
holder.join()
check_full_capacity()
"""


def test_gevent_patched_before_our_import_works() -> None:
    run_program(GREENLETS, first="from gevent import monkey\nmonkey.patch_all()\n")


@pytest.mark.parametrize("used", [False, True], ids=["imported", "used"])
def test_gevent_patched_after_our_import_works(used: bool) -> None:
    # As under `opentelemetry-instrument`, which imports us before the program begins.
    late = 'with slot("early"):\n    pass\n' if used else ""
    late += "from gevent import monkey\nmonkey.patch_all()\n"
    run_program(late + GREENLETS, warnings=("ignore:Monkey-patching",))
