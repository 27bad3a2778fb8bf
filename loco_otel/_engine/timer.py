"""One thread that watches the clock for one engine."""

import logging
import weakref
from _thread import start_new_thread
from collections.abc import Callable
from math import inf
from queue import Empty, SimpleQueue

from loco_otel.clock import Clock

_logger = logging.getLogger("loco_otel")

# `start_new_thread` and `SimpleQueue` are bound together, here: both are the real ones, or both gevent's. Where gevent
# patches later than this import, a greenlet must not block in a real queue, it would stop the program. A plain thread
# is no part of `threading`, which joins its threads at exit; this one may be cut off at any time.


class Timer:
    """Calls an action when it is due and whenever poked; the action returns when it is due again, inf for never.

    Its thread starts with `start`, and ends with the object that the action belongs to.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wakeups: SimpleQueue[None] = SimpleQueue()
        self._action: weakref.WeakMethod[Callable[[], float]] | None = None
        self.failure: RuntimeError | None = None
        """Why its thread could not be started the last time; None if it runs, or if the interpreter shuts down."""

    def start_watching(self, action: Callable[[], float]) -> bool:
        """Start the thread that calls `action`, or wake it if it runs; return False if it can't be started.

        `action` is a bound method; the timer keeps no strong reference to its object. After False, the next call tries
        again.
        """
        if self._action is not None:
            self.wake_timer()
            return True
        watched = weakref.WeakMethod(action, lambda _: self.wake_timer())
        try:
            start_new_thread(self._run_actions, (watched,))
        except RuntimeError as error:
            # At shutdown it is no fault: the engine wakes whatever waits.
            self.failure = None if "shutdown" in str(error) else error
            return False
        self._action = watched
        self.failure = None
        return True

    def create_child_timer(self) -> "Timer":
        """Return the timer of a forked child, which has no thread yet."""
        return Timer(self._clock)

    def wake_timer(self) -> None:
        """Look again now. Reentrant (`SimpleQueue.put` is), so that finalisers may."""
        self._wakeups.put(None)

    def _run_actions(self, action: weakref.WeakMethod[Callable[[], float]]) -> None:
        while (call := action()) is not None:
            try:
                due = call()
            except Exception:
                _logger.exception("the scheduler's timer failed")
                due = self._clock() + 1.0
            del call
            try:
                self._wakeups.get(timeout=None if due == inf else max(0.0, due - self._clock()))
            except Empty:
                continue
