"""A thread that runs an engine's due actions."""

import logging
import weakref
from _thread import start_new_thread
from collections.abc import Callable
from math import inf
from queue import Empty, SimpleQueue

from loco_otel.clock import Clock

_logger = logging.getLogger("loco_otel")

_ACTION_ERROR = (
    "an action of the scheduler's timer raised: timeouts, LOCO_MAX_HOLD and rates per minute may take effect late; it "
    "runs again in a second, so please report this traceback"
)

# `start_new_thread` and `SimpleQueue` are bound together, here: both are the real ones, or both gevent's. If gevent
# patches after this import, a greenlet must not block in a real queue, as that would stop the program. A plain thread
# is not joined at exit, unlike those of `threading`; this one may be stopped at any time.


class Timer:
    """Calls an action when it is due and when woken; the action returns when it is due again, inf for never.

    The thread starts with `start_watching`, and ends with the object that the action belongs to.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wakeups: SimpleQueue[None] = SimpleQueue()
        self._action: weakref.WeakMethod[Callable[[], float]] | None = None
        self.failure: RuntimeError | None = None
        """The error of the last attempt to start the thread; None if it runs, or if the interpreter shuts down."""

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
            # At shutdown this is expected: the engine wakes all waiters.
            self.failure = None if "shutdown" in str(error) else error
            return False
        self._action = watched
        self.failure = None
        return True

    def create_child_timer(self) -> "Timer":
        """Return the timer of a forked child, which has no thread yet."""
        return Timer(self._clock)

    def wake_timer(self) -> None:
        """Call the action now. Reentrant, as `SimpleQueue.put` is, so finalizers may call this."""
        self._wakeups.put(None)

    def _run_actions(self, action: weakref.WeakMethod[Callable[[], float]]) -> None:
        while (call := action()) is not None:
            try:
                due = call()
            except Exception:
                _logger.exception(_ACTION_ERROR)
                due = self._clock() + 1.0
            del call
            try:
                self._wakeups.get(timeout=None if due == inf else max(0.0, due - self._clock()))
            except Empty:
                continue
