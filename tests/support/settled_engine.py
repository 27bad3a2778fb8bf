"""A shared engine whose operations return once the server has answered, for tests that assert right after them."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from patience import PATIENCE

from loco_otel._core.ticket import Ticket
from loco_otel._engine.redis.batches import Operation, Reply
from loco_otel._engine.redis.engine import RedisEngine
from loco_otel.events import Spending


class SettledEngine(RedisEngine):
    """The engine, but that each operation waits for the replies to what it has sent."""

    _applied = 0

    def submit(self, ticket: Ticket) -> None:
        super().submit(ticket)
        self._settle()

    def release(self, ticket: Ticket, spending: Spending | None = None) -> None:
        super().release(ticket, spending)
        self._settle()

    def apply_reply(self, reply: Reply, operations: Sequence[Operation], seconds: float) -> None:
        super().apply_reply(reply, operations, seconds)
        self._applied += 1

    def _locked(self, operation: Callable[..., Any], *, is_timed: bool = True) -> Any:
        result = super()._locked(operation, is_timed=is_timed)
        self._settle()
        return result

    def _settle(self) -> None:
        link = getattr(self, "_link", None)
        if link is None or (link._thread is not None and link._thread.is_current()) or self._lock._is_owned():
            return
        log, give_up = link.log, time.monotonic() + PATIENCE
        while not log.is_synced or log._queue or self._applied < log._number:
            assert time.monotonic() < give_up, "the server does not answer"
            if link._thread is None or not link._thread.is_alive():
                return
            time.sleep(0.0005)

    def after_fork(self) -> None:
        super().after_fork()
        self._applied = 0
