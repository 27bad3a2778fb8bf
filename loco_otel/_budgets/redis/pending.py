"""What a process has under way at the server of the ledger."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from loco_otel._budgets.redis.charge_log import ChargeEntry, Operation
from loco_otel._budgets.redis.records import Share


class OpenReservation(NamedTuple):
    """An open reservation."""

    shares: Sequence[Share]
    restore: Callable[[float], Operation]
    """Returns the operation that makes it again, for a time of the server."""


class PendingStep:
    """A step that was sent, and its reply."""

    __slots__ = ("_gate", "entry", "is_abandoned", "is_finished", "on_done", "operation", "reply", "sent_at")

    def __init__(
        self, operation: Operation, entry: ChargeEntry | None, on_done: Callable[[Any], None] | None, now: float
    ) -> None:
        self.operation = operation
        self.entry = entry
        self.on_done = on_done
        self.sent_at = now
        self.reply: Any = None
        """None after a failure."""
        self.is_abandoned = False
        self.is_finished = False
        self._gate = threading.Lock()
        self._gate.acquire()

    def finish(self) -> None:
        """End the wait for the reply, once: it has come, or will not."""
        self.is_finished = True
        self._gate.release()

    def wait(self, seconds: float) -> bool:
        """Return whether it has finished, after at most so many seconds. Several threads may wait."""
        if not self._gate.acquire(timeout=seconds):
            return False
        self._gate.release()
        return True
