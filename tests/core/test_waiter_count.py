"""The number of waiters is known without a look at each resource."""

from collections.abc import ValuesView

import pytest

from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.queue_set import QueueSet
from loco_otel._core.recovery import rebuild_state
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import Ticket
from loco_otel.events import Outcome, Request


class UnlistedQueueSets(dict[tuple[str, ...], QueueSet]):
    """Refuses to list all of them."""

    def values(self) -> ValuesView[QueueSet]:
        pytest.fail("all queue sets are listed")


def test_count_of_waiters_lists_no_queue_sets() -> None:
    core = Scheduler({"llm": 1, "tool": 1}, FifoPolicy, max_waiters=1)
    tickets = [Ticket(Request("a", resources=("llm",))) for _ in range(3)]
    core.resources.queue_sets = UnlistedQueueSets(core.resources.queue_sets)
    for ticket in tickets:
        core.submit(ticket, 0.0)
    assert (core.count_waiting(), tickets[2].outcome) == (1, Outcome.BACKPRESSURE)
    core.cancel(tickets[1], 0.0)
    assert core.count_waiting() == 0


def test_count_of_waiters_is_the_same_after_recovery() -> None:
    core = Scheduler({"llm": 1}, FifoPolicy)
    for _ in range(3):
        core.submit(Ticket(Request("a", resources=("llm",))), 0.0)
    rebuild_state(core, 0.0)
    assert core.count_waiting() == 2
