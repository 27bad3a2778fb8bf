"""The events of a wait are built in a time that does not depend on the number of leases."""

from collections.abc import Iterator, ValuesView

from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import Ticket
from loco_otel.events import Request, Waiting


class CountingLeases(dict[int, Ticket]):
    """Counts the leases that are read."""

    reads = 0

    def values(self) -> ValuesView[Ticket]:
        def read() -> Iterator[Ticket]:
            for ticket in super(CountingLeases, self).values():
                self.reads += 1
                yield ticket

        return read()  # type: ignore[return-value] # only iterated over


def test_wait_event_reads_only_the_leases_that_it_names() -> None:
    core = Scheduler({"llm": 100, "tool": 100}, FifoPolicy)
    holders = [Ticket(Request("a", resources=("llm", "tool"))) for _ in range(100)]
    for ticket in holders:
        core.submit(ticket, 0.0)
    pools = [core.resources.pools[name] for name in ("llm", "tool")]
    for pool in pools:
        pool.leases = CountingLeases(pool.leases)
    core.observed = True
    core.submit(Ticket(Request("b", resources=("llm", "tool"))), 0.0)
    (event,) = [event for event in core.events if isinstance(event, Waiting)]
    assert event.holders == tuple(holders[:16])
    assert [getattr(pool.leases, "reads", None) for pool in pools] == [16, 16]
