"""Operations of a remote ledger that follow each other in one thread."""

import asyncio
import threading
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
from patience import PATIENCE

from loco_otel._budgets.ledger_threads import LedgerThreads


@pytest.fixture
def threads() -> LedgerThreads:
    return LedgerThreads()


def start_blocked(threads: LedgerThreads) -> tuple["Future[Any]", threading.Event]:
    """Return an operation that ends with the event, and returns its thread."""
    gate = threading.Event()

    def wait() -> int:
        assert gate.wait(PATIENCE)
        return threading.get_ident()

    return threads.run(wait), gate


def test_follower_runs_in_the_thread_of_the_earlier_one(threads: LedgerThreads) -> None:
    earlier, gate = start_blocked(threads)
    future = threads.run_after(earlier, threading.get_ident)
    assert not future.done()
    gate.set()
    assert future.result(PATIENCE) == earlier.result(PATIENCE)


def test_follower_whose_caller_has_cancelled_does_not_run(threads: LedgerThreads) -> None:
    earlier, gate = start_blocked(threads)
    ran: list[int] = []
    future = threads.run_after(earlier, ran.append, 1)
    assert future.cancel()
    last = threads.run_after(earlier, lambda: None)
    gate.set()
    last.result(PATIENCE)
    assert ran == []
    with pytest.raises(CancelledError):
        future.result(PATIENCE)


def test_error_of_a_follower_is_raised_to_its_caller(threads: LedgerThreads) -> None:
    earlier, gate = start_blocked(threads)
    gate.set()
    future = threads.run_after(earlier, int, "x")
    with pytest.raises(ValueError, match="'x'"):
        future.result(PATIENCE)


def test_follower_never_runs_on_an_event_loop(threads: LedgerThreads) -> None:
    earlier, gate = start_blocked(threads)
    gate.set()
    earlier.result(PATIENCE)

    async def follow() -> int:
        return await asyncio.wrap_future(threads.run_after(earlier, threading.get_ident))

    assert asyncio.run(follow()) != threading.get_ident()


def test_wait_includes_a_follower(threads: LedgerThreads) -> None:
    earlier, gate = start_blocked(threads)
    future = threads.run_after(earlier, int, "1")
    gate.set()
    threads.wait(PATIENCE)
    assert future.done()
