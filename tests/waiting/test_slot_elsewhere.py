"""A slot entered in a context that is gone: the calls within it do not wait for it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import Context
from functools import partial

import pytest
from callers import Caller, Desk, Loop, Threads

import loco_otel
from loco_otel import slot
from loco_otel.events import Granted, GrantReason
from loco_otel.patching import thread_context


@pytest.fixture(autouse=True)
def propagation() -> Iterator[None]:
    user = object()
    thread_context.enable_propagation(user)
    yield
    thread_context.disable_propagation(user)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def enter_by_pool(pool: ThreadPoolExecutor) -> ExitStack:
    stack = ExitStack()
    pool.submit(stack.enter_context, slot("outer")).result()
    return stack


def enter_in_a_context(_: ThreadPoolExecutor) -> ExitStack:
    """As `anyio.to_thread.run_sync` does, which runs FastAPI's sync dependencies."""
    stack = ExitStack()
    Context().run(stack.enter_context, slot("outer"))
    return stack


each_way = pytest.mark.parametrize("enter", [enter_by_pool, enter_in_a_context], ids=lambda way: way.__name__)


@each_way
def test_slot_of_a_context_that_is_gone_is_lent(enter, desk: Desk, pool: ThreadPoolExecutor) -> None:
    with enter(pool):
        inner = Threads().call(partial(slot, "inner"))
        desk.waiters(1)
        desk.advance(0.4)
        assert not inner.is_inside
        desk.advance(0.1)
        inner.leave()
    assert desk.is_empty()


@pytest.mark.parametrize("desk", ["memory"], indirect=True)  # a shared engine shares one slot at a time
@each_way
def test_as_many_slots_as_calls_all_progress(enter, desk: Desk, pool: ThreadPoolExecutor) -> None:
    loco_otel.configure(capacity=3)
    listener = desk.record()
    outer = [enter(pool) for _ in range(3)]
    inner = [Threads().call(partial(slot, "inner")) for _ in range(3)]
    desk.waiters(3)
    desk.advance(0.5)
    (first,) = [caller for caller in inner if _wait_inside(caller, listener.of(Granted)[3:])]
    first.leave()
    for stack, caller in zip(outer, [caller for caller in inner if caller is not first], strict=False):
        stack.close()
        caller.leave()
    outer[2].close()
    assert [event.reason for event in listener.of(Granted)[3:]].count(GrantReason.REENTRANT) == 1
    assert desk.is_empty()


def _wait_inside(caller: Caller, grants: list[Granted]) -> bool:
    assert len(grants) == 1
    return caller.entered[0].wait(0.5)


def test_slot_of_a_context_that_lives_is_not_lent(desk: Desk, pool: ThreadPoolExecutor) -> None:
    context = Context()
    stack = ExitStack()
    context.run(stack.enter_context, slot("outer"))
    other = Threads().call(partial(slot, "other"))
    desk.waiters(1)
    desk.advance(100)
    assert not other.is_inside
    context.run(stack.close)
    other.leave()
    assert desk.is_empty()
    assert context.run(pool.submit, len, ()).result() == 0


def test_slot_of_a_child_context_stays_claimed(desk: Desk, loop: Loop) -> None:
    """A task has a copy of the context that the slot was entered in, which is gone."""
    holder = loop.call(partial(slot, "outer")).inside()
    other = Threads().call(partial(slot, "other"))
    desk.waiters(1)
    desk.advance(100)
    assert not other.is_inside
    holder.leave()
    other.leave()
