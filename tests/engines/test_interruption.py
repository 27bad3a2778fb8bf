"""A KeyboardInterrupt, or the garbage collector's finalisers, may come in the midst of any operation.

Python looks for signals where a function begins, after each call and at each jump backward; finalisers run at any
bytecode. Each operation is run once for every such point that it passes in the engine, the core and the shells, and is
broken off, or interrupted by a finaliser, there. Whatever the point: no slot is lost, no waiter sleeps on a grant, and
nothing deadlocks.
"""

import dis
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import loco_otel
from loco_otel._core.load import LoadPolicy
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel._engines.in_process import InProcessEngine
from loco_otel._waiting.slot import Slot
from loco_otel.events import DEFAULT_RESOURCE, Request
from loco_otel.testing import ManualClock

_HERE = Path(loco_otel.__file__).parent
_WATCHED = tuple(str(_HERE / part) for part in ("_engines", "_core", "_waiting"))


class Bench:
    """An engine with capacity 1, somebody who holds, somebody who waits, and a note of who was woken."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        core = Scheduler({DEFAULT_RESOURCE: 1}, lambda: LoadPolicy(0.25, lambda: 0.5), max_hold=900.0)
        self.engine = InProcessEngine(core, clock=self.clock, timer=False)
        self.woken: set[Ticket] = set()
        self.holder: Ticket | None = None
        self.waiter: Ticket | None = None

    def hold(self) -> None:
        self.holder = self.engine.ticket(Request("holder"))
        self.engine.submit(self.holder)
        assert self.holder.state is State.GRANTED

    def wait(self, timeout: float | None = None) -> None:
        waiter = self.waiter = self.engine.ticket(Request("waiter", timeout=timeout))
        self.engine.submit(waiter)
        self.engine.park(waiter, lambda: self.woken.add(waiter), ())
        assert waiter.state is State.WAITING

    def check(self) -> None:
        """Finish all that is known, and see that nothing is lost."""
        self.engine.advance()
        waiter = self.waiter
        if waiter is not None and waiter.state is not State.WAITING:
            assert waiter in self.woken, f"{waiter} was decided and sleeps on"
        for ticket in (self.holder, waiter):
            if ticket is not None:
                self.engine.cancel(ticket)
        (resource,) = self.engine.snapshot().resources
        assert (resource.active, resource.waiting, resource.agents) == (0, 0, ())
        last = self.engine.ticket(Request("last"))
        self.engine.submit(last)
        assert last.state is State.GRANTED


class Host:
    """What a slot needs, and nothing more."""

    def __init__(self, engine: InProcessEngine) -> None:
        self.engine = engine

    def trace(self) -> None:
        return None

    def unsupported(self, what: str) -> None:
        raise AssertionError(what)


_LOOKS_FOR_SIGNALS = ("CALL", "RESUME", "JUMP_BACKWARD")
"""What the bytecodes begin with after which the interpreter looks for signals."""


@cache
def _looks(code: CodeType) -> frozenset[int]:
    return frozenset(
        instruction.offset for instruction in dis.get_instructions(code) if instruction.opname in _LOOKS_FOR_SIGNALS
    )


def at_point(number: int, action: Callable[[], None], operation: Callable[[], None], *, signals: bool) -> int:
    """Run an operation, and the action at the point of that number; return how many there were."""
    count = 0
    last: dict[FrameType, int] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(_WATCHED):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            looked = last.get(frame) in _looks(frame.f_code)
            last[frame] = frame.f_lasti
            if looked or not signals:
                count += 1
                if count == number:
                    sys.settrace(None)
                    action()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        operation()
    finally:
        sys.settrace(before)
        last.clear()  # frames keep alive what they refer to
    return count


def submit_free(bench: Bench) -> Callable[[], None]:
    ticket = bench.holder = bench.engine.ticket(Request("holder"))
    return lambda: bench.engine.submit(ticket)


def submit_contended(bench: Bench) -> Callable[[], None]:
    bench.hold()
    ticket = bench.engine.ticket(Request("waiter", timeout=5.0))
    bench.waiter = ticket
    bench.woken.add(ticket)  # it is not parked: nobody has to wake it
    return lambda: bench.engine.submit(ticket)


def park(bench: Bench) -> Callable[[], None]:
    bench.hold()
    ticket = bench.waiter = bench.engine.ticket(Request("waiter"))
    bench.engine.submit(ticket)
    return lambda: bench.engine.park(ticket, lambda: bench.woken.add(ticket), ("place",))


def release_with_a_waiter(bench: Bench) -> Callable[[], None]:
    bench.hold()
    bench.wait()
    holder = bench.holder
    assert holder is not None
    return lambda: bench.engine.release(holder)


def release_alone(bench: Bench) -> Callable[[], None]:
    bench.hold()
    holder = bench.holder
    assert holder is not None
    return lambda: bench.engine.release(holder)


def cancel_the_waiter(bench: Bench) -> Callable[[], None]:
    bench.hold()
    bench.wait(timeout=5.0)
    waiter = bench.waiter
    assert waiter is not None
    return lambda: bench.engine.cancel(waiter)


def suspend_with_a_waiter(bench: Bench) -> Callable[[], None]:
    bench.hold()
    bench.wait()
    holder = bench.holder
    assert holder is not None
    return lambda: bench.engine.suspend(holder)


def resume(bench: Bench) -> Callable[[], None]:
    bench.hold()
    holder = bench.holder
    assert holder is not None
    bench.engine.suspend(holder)
    return lambda: bench.engine.resume(holder)


def raise_the_capacity(bench: Bench) -> Callable[[], None]:
    bench.hold()
    bench.wait()

    def change(core: Scheduler, now: float) -> None:
        core.set_capacity(DEFAULT_RESOURCE, 2, now)

    return lambda: bench.engine.configure(change)


def expire(bench: Bench) -> Callable[[], None]:
    bench.hold()
    bench.wait(timeout=5.0)
    bench.clock.advance(1000.0)

    def advance() -> None:
        bench.engine.advance()

    return advance


def whole_slot(bench: Bench) -> Callable[[], None]:
    def body() -> None:
        with Slot(Host(bench.engine), Request("slot")):
            pass

    return body


OPERATIONS = [
    submit_free,
    submit_contended,
    park,
    release_with_a_waiter,
    release_alone,
    cancel_the_waiter,
    suspend_with_a_waiter,
    resume,
    raise_the_capacity,
    expire,
    whole_slot,
]


def every_point(prepare: Callable[[Bench], Callable[[], None]], *, signals: bool) -> Iterator[int]:
    total = at_point(0, lambda: None, prepare(Bench()), signals=signals)
    assert total > 1
    yield from range(1, total + 1)


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("observed", [False, True], ids=["quiet", "observed"])
@pytest.mark.parametrize("prepare", OPERATIONS)
def test_an_interrupt_loses_nothing(prepare: Callable[[Bench], Callable[[], None]], observed: bool) -> None:
    for number in every_point(prepare, signals=True):
        bench = Bench()
        if observed:
            bench.engine.listen(lambda _: None)
        operation = prepare(bench)
        with suppress(KeyboardInterrupt):
            at_point(number, interrupt, operation, signals=True)
        bench.check()


@pytest.mark.parametrize("prepare", OPERATIONS)
def test_a_lease_dropped_in_the_midst_comes_back(prepare: Callable[[Bench], Callable[[], None]]) -> None:
    for number in every_point(prepare, signals=False):
        bench = Bench()
        dropped = [Slot(Host(bench.engine), Request("dropped"))]
        dropped[0].__enter__()
        core = bench.engine._core
        core.set_capacity(DEFAULT_RESOURCE, 2, 0.0)
        operation = prepare(bench)
        core.set_capacity(DEFAULT_RESOURCE, 2, 0.0)
        at_point(number, dropped.clear, operation, signals=False)
        dropped.clear()  # where this path is shorter than the one that was counted
        bench.check()
        bench.engine.advance()
        (resource,) = bench.engine.snapshot().resources
        assert [(one.agent, one.active) for one in resource.agents] == [("last", 1)]


@pytest.mark.parametrize("prepare", OPERATIONS)
def test_a_finaliser_may_release_in_the_midst(prepare: Callable[[Bench], Callable[[], None]]) -> None:
    for number in every_point(prepare, signals=False):
        bench = Bench()
        other = bench.engine.ticket(Request("other"))
        core = bench.engine._core
        core.set_capacity(DEFAULT_RESOURCE, 2, 0.0)
        bench.engine.submit(other)
        operation = prepare(bench)

        def finalise(bench: Bench = bench, other: Ticket = other) -> None:
            bench.engine.release(other)

        at_point(number, finalise, operation, signals=False)
        finalise()  # where this path is shorter than the one that was counted
        bench.check()
        assert other.state is State.RELEASED
