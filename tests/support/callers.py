"""Callers of slots under a test's control, one kind for each way of waiting, and the scheduler that they come to.

A caller makes its slots, enters them one inside the other, and stays in the innermost body until the test ends it.
Its result is kept for the test. Nothing here sleeps: a test waits for what happens, and gives up
after `PATIENCE`.
"""

import asyncio
import gc
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import Context
from types import TracebackType
from typing import Protocol, Self

from patience import PATIENCE

from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.in_process import InProcessEngine
from loco_otel._waiting.slot import Slot
from loco_otel.events import ResourceSnapshot
from loco_otel.testing import ManualClock, RecordingListener

Make = Callable[[], Slot]


def happens(event: threading.Event) -> None:
    """Wait for something that must happen."""
    assert event.wait(PATIENCE), "it did not happen"


class Caller:
    """One caller. The test's side of it; `Threads` and `Loop` run the other."""

    def __init__(self, *make: Make) -> None:
        self.make = make
        self.entered = [threading.Event() for _ in make]
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self.raises: BaseException | None = None
        self.let_go: Callable[[], None]
        self.task: asyncio.Task[None]

    @property
    def is_inside(self) -> bool:
        """Whether it has been in its innermost body."""
        return self.entered[-1].is_set()

    def inside(self, depth: int | None = None) -> Self:
        """Wait until it is in its body, or in the outermost `depth` of them."""
        happens(self.entered[(depth or len(self.entered)) - 1])
        return self

    def end(self) -> BaseException | None:
        """Wait until it has ended, and return what it ended with."""
        happens(self.ended)
        return self.error

    def leave(self, error: BaseException | None = None) -> BaseException | None:
        """End its body, by an exception if one is given, and return what it ended with."""
        self.inside()
        self.raises = error
        self.let_go()
        return self.end()


class Way(Protocol):
    """A way of waiting."""

    interruption: type[BaseException]
    """What may break off a wait from outside."""

    def call(self, *make: Make) -> Caller:
        """Start a caller, in a context of its own."""

    def drop(self, make: Make) -> None:
        """Enter a slot and let it go without leaving."""

    def close(self) -> None:
        """End everything."""


class Threads:
    """Each caller is a thread."""

    interruption = KeyboardInterrupt

    def call(self, *make: Make) -> Caller:
        """Start a caller."""
        caller = Caller(*make)
        leaving = threading.Event()
        caller.let_go = leaving.set

        def stay(slots: list[Slot]) -> None:
            depth = len(make) - len(slots)
            if not slots:
                leaving.wait()
                if caller.raises is not None:
                    raise caller.raises
                return
            with slots[0]:
                caller.entered[depth].set()
                stay(slots[1:])

        def attend() -> None:
            try:
                stay([each() for each in make])
            except BaseException as error:
                caller.error = error
            finally:
                caller.ended.set()

        threading.Thread(target=Context().run, args=(attend,), daemon=True).start()
        return caller

    def drop(self, make: Make) -> None:
        """Enter a slot and let it go without leaving."""
        thread = threading.Thread(target=lambda: make().__enter__() and None, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        gc.collect()

    def close(self) -> None:
        """Leave it to the runtime, which rejects all waiters."""


class Loop:
    """Each caller is a task of one event loop, which runs in a thread of its own."""

    interruption = asyncio.CancelledError

    def __init__(self, make_loop: Callable[[], asyncio.AbstractEventLoop], *, eager: bool = False) -> None:
        self.loop = make_loop()
        if eager:
            self.loop.set_task_factory(asyncio.eager_task_factory)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.close()

    def call(self, *make: Make) -> Caller:
        """Start a caller."""
        caller = Caller(*make)
        self.loop.call_soon_threadsafe(self._start, caller, context=Context())
        return caller

    def _start(self, caller: Caller) -> None:
        leaving = asyncio.Event()
        caller.let_go = lambda: self.say(leaving.set)
        caller.task = self.loop.create_task(self._attend(caller, leaving))

    async def _attend(self, caller: Caller, leaving: asyncio.Event) -> None:
        async def stay(slots: list[Slot]) -> None:
            depth = len(caller.make) - len(slots)
            if not slots:
                await leaving.wait()
                if caller.raises is not None:
                    raise caller.raises
                return
            async with slots[0]:
                caller.entered[depth].set()
                await stay(slots[1:])

        try:
            await stay([each() for each in caller.make])
        except BaseException as error:
            caller.error = error
        finally:
            caller.ended.set()

    def cancel(self, caller: Caller) -> None:
        """Cancel its task."""
        self.say(lambda: caller.task.cancel())  # noqa: PLW0108 - an eager task may park before it is known here

    def say(self, what: Callable[[], object]) -> None:
        """Do something in the loop's thread."""
        self.loop.call_soon_threadsafe(what)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Hold the loop still; what the body asks of it comes afterwards, in that order."""
        still, go_on = threading.Event(), threading.Event()

        def stand_still() -> None:
            still.set()
            go_on.wait(PATIENCE)

        self.say(stand_still)
        happens(still)
        try:
            yield
        finally:
            go_on.set()

    def drop(self, make: Make) -> None:
        """Enter a slot and let it go without leaving."""

        async def enter() -> None:
            await make().__aenter__()

        asyncio.run_coroutine_threadsafe(enter(), self.loop).result(PATIENCE)
        gc.collect()

    def close(self) -> None:
        """Cancel what is left and close the loop."""

        async def cancel_all() -> None:
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(cancel_all(), self.loop).result(PATIENCE)
        self.say(self.loop.stop)
        self._thread.join(PATIENCE)


class Stop:
    """A place where the next waiter blocks until the test resumes it."""

    def __init__(self, *, parked: bool) -> None:
        self.parked = parked
        """Whether it has parked by then."""
        self._reached = threading.Event()
        self._go_on = threading.Event()
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        happens(self._reached)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._go_on.set()

    def interrupt(self, error: BaseException) -> None:
        """Resume it with an exception."""
        self._error = error

    def stand_still(self) -> None:
        """Do so, in the waiter."""
        self._reached.set()
        self._go_on.wait(PATIENCE)
        if self._error is not None:
            raise self._error


class Desk:
    """The scheduler that callers come to. The test moves its clock, and it records which tickets park."""

    def __init__(self, engine: InProcessEngine, clock: ManualClock) -> None:
        self.engine = engine
        self._clock = clock
        self._parked: set[Ticket] = set()
        self._news = threading.Condition()
        self._stops: deque[Stop] = deque()
        self._park = engine.park_ticket
        engine.park_ticket = self._see_park  # type: ignore[method-assign]

    def _see_park(self, ticket: Ticket, wake: Callable[[], None], blocks: tuple[Hashable, ...]) -> None:
        stop = self._stops.popleft() if self._stops else None
        if stop is not None and not stop.parked:
            stop.stand_still()
        self._park(ticket, wake, blocks)
        with self._news:
            self._parked.add(ticket)
            self._news.notify_all()
        if stop is not None and stop.parked:
            stop.stand_still()

    def stop_next(self, *, parked: bool = True) -> Stop:
        """Block the next waiter right after it has parked, or right before."""
        stop = Stop(parked=parked)
        self._stops.append(stop)
        return stop

    def waiters(self, count: int) -> None:
        """Wait until a number of waiters are parked."""

        def arrived() -> bool:
            return sum(ticket.state is State.WAITING and not ticket.is_unanswered for ticket in self._parked) == count

        give_up = time.monotonic() + PATIENCE
        with self._news:
            # A shared engine queues a waiter later, without news.
            while not self._news.wait_for(arrived, 0.01):
                assert time.monotonic() < give_up, self._parked

    def advance(self, seconds: float = 0.0) -> None:
        """Move the clock."""
        self._clock.advance(seconds)
        self.engine.run_due_actions()

    def record(self) -> RecordingListener:
        """Return a listener of all events from now on."""
        listener = RecordingListener()
        self.engine.add_listener(listener)
        return listener

    @property
    def standing(self) -> ResourceSnapshot:
        """The state of the one resource."""
        return self.engine.take_snapshot().resources[0]

    @property
    def counts(self) -> tuple[int, int]:
        """How many hold, and how many wait."""
        standing = self.standing
        return standing.active, standing.waiting

    def is_empty(self) -> bool:
        """Return whether nothing holds, waits or is kept."""
        standing = self.standing
        return (standing.active, standing.waiting, standing.agents) == (0, 0, ())
