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

    def start_watching(self, action: Callable[[], float]) -> None:
        """Begin to watch for an action, a bound method whose object this does not keep alive; poke where begun."""
        if self._action is not None:
            self.wake_timer()
            return
        self._action = weakref.WeakMethod(action, lambda _: self.wake_timer())
        try:
            start_new_thread(self._run_actions, (self._action,))
        except RuntimeError:
            # The interpreter is shutting down; what waits is woken by the engine's shutdown.
            _logger.debug("no thread for the timer", exc_info=True)

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
