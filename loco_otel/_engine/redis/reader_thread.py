"""The thread that reads the connection of a link."""

import _thread
import threading
from collections.abc import Callable


class ReaderThread:
    """A daemon thread that starts without a wait, so that a link can start it under a lock.

    `threading.Thread.start` waits until the thread runs. Under gevent other greenlets run meanwhile, and a lock that
    was made before gevent's patch does not keep them out: they would enter the operation that starts the thread.

    Args:
        run: what it runs, once.

    Raises:
        RuntimeError: the system has no thread left.

    """

    def __init__(self, run: Callable[[], None]) -> None:
        self._run = run
        self._ended = threading.Event()
        self._ident: int | None = None
        # Resolved now: after a patch by gevent it starts a greenlet.
        _thread.start_new_thread(self._run_to_the_end, ())

    def is_current(self) -> bool:
        """Return whether the caller runs in this thread."""
        return self._ident == threading.get_ident()

    def is_alive(self) -> bool:
        """Return whether it has not ended."""
        return not self._ended.is_set()

    def join(self, seconds: float) -> None:
        """Wait for its end; no-op in this thread."""
        if not self.is_current():
            self._ended.wait(seconds)

    def _run_to_the_end(self) -> None:
        self._ident = threading.get_ident()
        try:
            self._run()
        finally:
            self._ended.set()
