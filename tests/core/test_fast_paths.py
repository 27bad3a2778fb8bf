"""`try_submit_fast` and `try_release_fast` leave the state that `submit` and `release` leave."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from loco_otel._core.fast_paths import try_release_fast, try_submit_fast
from loco_otel._core.policies.base import Policy
from loco_otel._core.policies.fair import FairPolicy
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import Ticket
from loco_otel.events import Request

POLICIES: dict[str, Callable[[], Policy]] = {"fifo": FifoPolicy, "fair": lambda: FairPolicy({"a": 2000})}

Step = tuple[str, int, str, tuple[str, ...], bool]

STEPS = st.lists(
    st.tuples(
        st.sampled_from(("submit", "release", "admit")),
        st.integers(0, 7),
        st.sampled_from("ab"),
        st.sampled_from((("llm",), ("gpu",), ("llm", "gpu"))),
        st.booleans(),
    ),
    max_size=40,
)


class House:
    """A scheduler, its tickets in the order in which they were submitted, and whether it tries the fast paths."""

    def __init__(self, policy: str, capacity: int | None, *, fast: bool) -> None:
        self.core = Scheduler({"llm": capacity, "gpu": 2}, POLICIES[policy], max_hold=100.0)
        self.fast = fast
        self.fast_count = 0
        self.tickets: list[Ticket] = []

    def run_step(self, step: Step, now: float) -> None:
        kind, number, agent, resources, admission = step
        if kind == "submit":
            ticket = Ticket(Request(agent, 1000 + number, resources=resources, admission=admission))
            self.tickets.append(ticket)
            if self.fast and try_submit_fast(self.core, ticket, now):
                self.fast_count += 1
            else:
                self.core.submit(ticket, now)
        elif self.tickets:
            ticket = self.tickets[number % len(self.tickets)]
            if kind == "admit":
                self.core.admit_ticket(ticket, now)
            elif self.fast and try_release_fast(self.core, ticket):
                self.fast_count += 1
            else:
                self.core.release(ticket, now)

    def describe_state(self) -> object:
        """Return all that later operations depend on, with tickets by their place in the order of submission."""
        places = {ticket.seq: place for place, ticket in enumerate(self.tickets)}
        tickets = [
            (
                ticket.state, ticket.reason, ticket.outcome, ticket.birth, ticket.waited_ticks, ticket.granted_at,
                ticket.touched_at, ticket.scopes, ticket.charged_by is None,
            )
            for ticket in self.tickets
        ]  # fmt: skip
        pools = [
            (pool.used, pool.sharer_count, [places[seq] for seq in pool.leases], list(pool.recently_served))
            for pool in self.core.resources.pools.values()
        ]
        queues = {names: (line.tick, line.waiting) for names, line in self.core.resources.queue_sets.items()}
        listed = [places[ticket.seq] for ticket in self.core.tickets.values()]
        return tickets, pools, queues, listed, self.core.compute_next_wakeup(), len(self.core.decided)


@given(st.sampled_from(sorted(POLICIES)), st.sampled_from((None, 1, 3)), STEPS)
def test_fast_and_slow_paths_leave_the_same_state(policy: str, capacity: int | None, steps: list[Step]) -> None:
    fast, slow = House(policy, capacity, fast=True), House(policy, capacity, fast=False)
    for now, step in enumerate(steps):
        fast.run_step(step, float(now))
        slow.run_step(step, float(now))
        assert fast.describe_state() == slow.describe_state()
        assert fast.core.start_snapshot(now).build_snapshot() == slow.core.start_snapshot(now).build_snapshot()


def test_free_slot_takes_both_fast_paths() -> None:
    house = House("fifo", 1, fast=True)
    house.run_step(("submit", 0, "a", ("llm",), False), 0.0)
    house.run_step(("release", 0, "a", ("llm",), False), 1.0)
    assert house.fast_count == 2
