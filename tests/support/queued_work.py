"""Work that an agent has queued apart from its waiters, for tests of the core."""

from dataclasses import dataclass

from loco_otel._core.backlog import Backlog
from loco_otel._core.lazy_heap import Entry
from loco_otel._core.ticket import Ticket
from loco_otel.events import Request


@dataclass
class QueuedWork:
    birth: int
    milli: int
    holder: Ticket | None = None
    entry: Entry | None = None
    agent: str = "agent"

    @property
    def request(self) -> Request:
        return Request(self.agent, self.milli)


def backlog_of(*pieces: QueuedWork) -> Backlog:
    backlog = Backlog(pieces)
    backlog.rebuild_index()
    return backlog
