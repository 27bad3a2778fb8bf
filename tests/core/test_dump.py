"""The dump of the core: complete, in order, and bounded."""

from hypothesis import given
from hypothesis import strategies as st

from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.policies.load import LoadPolicy
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import Request, ResourceDump

NAMES = st.sampled_from("abcd")


def dumped(core: Scheduler, most: int = 100, now: float = 0.0) -> ResourceDump:
    (only,) = core.start_snapshot(now, with_tickets=True).build_dump(most)
    return only


@given(
    st.lists(st.tuples(NAMES, st.integers(1, 5), st.booleans()), max_size=30),
    st.sampled_from(["load", "fifo"]),
    st.sampled_from([0, 3]),
)
def test_first_waiter_listed_is_the_next_served(asked: list[tuple[str, int, bool]], policy: str, guard: int) -> None:
    draws = iter(range(10**6))
    make = FifoPolicy if policy == "fifo" else lambda: LoadPolicy(0.25, lambda: next(draws) / 10**6)
    core = Scheduler({"llm": 1}, make, max_wait_ticks=guard)
    line = core.resources.get_queue_set(("llm",))
    for agent, weight, ends in asked:
        core.submit(Ticket(Request(agent, weight * 1000, ("llm",))), 0.0)
        if ends:
            core.release(next(iter(core.resources.pools["llm"].leases.values())), 0.0)
        if not core.count_waiting():
            continue
        shown = dumped(core)
        first = next(ticket for ticket in shown.tickets if ticket.state == "waiting")
        turn, guarded = line.select_next()
        agents = {agent.agent: agent for agent in shown.standing.agents}
        if guarded:
            assert first.id == turn.id
        else:
            # Equals are ordered at random.
            assert agents[first.agent].rank == 1
            assert agents[first.agent].score == agents[turn.request.agent].score
            assert first.agent != turn.request.agent or first.id == turn.id


def test_dump_shows_every_state_and_shared_slots() -> None:
    core = Scheduler({"llm": 1}, FifoPolicy)

    def ask(agent: str, now: float, **wishes: object) -> Ticket:
        ticket = Ticket(Request(agent, resources=("llm",), **wishes))  # type: ignore[arg-type]
        core.submit(ticket, now)
        return ticket

    paused = ask("sleeper", 0.0)
    core.suspend_ticket(paused, 1.0)
    asking = ask("asker", 1.0, admission=True)
    waiting = ask("waiter", 2.0, timeout=5.0, model="gpt-4o", provider="openai", tenant="acme")

    told = {ticket.id: ticket for ticket in dumped(core, now=3.0).tickets}
    assert [told[ticket.id].state for ticket in (paused, asking, waiting)] == [
        "paused",
        "admitting",
        "waiting",
    ]
    it = told[waiting.id]
    assert (it.agent, it.tenant, it.model, it.provider) == ("waiter", "acme", "gpt-4o", "openai")
    assert (it.seconds, it.time_left, it.ticks) == (1.0, 4.0, 0)
    assert told[asking.id].seconds == 2.0

    core.admit_ticket(asking, 3.0)
    asking.scopes = ("reader",)
    core.park_ticket(waiting, ("reader",), 3.0)
    assert waiting.state is State.GRANTED
    assert {ticket.id: ticket.shares_with for ticket in dumped(core).tickets}[waiting.id] == asking.id


def test_dump_is_bounded_and_marked_as_cut() -> None:
    core = Scheduler({"llm": 1}, FifoPolicy)
    for _ in range(10):
        core.submit(Ticket(Request("a", resources=("llm",))), 0.0)
    shown = dumped(core, most=3)
    assert ([ticket.state for ticket in shown.tickets], shown.left_out) == (["holding", "waiting", "waiting"], 7)
    assert dumped(core, most=0).left_out == 10


def test_request_of_several_resources_is_listed_at_each() -> None:
    core = Scheduler({"gpu": 1, "llm": 1}, FifoPolicy)
    core.submit(Ticket(Request("a", resources=("gpu", "llm"))), 0.0)
    assert [
        [ticket.resources for ticket in shown.tickets]
        for shown in core.start_snapshot(0.0, with_tickets=True).build_dump(9)
    ] == [[("gpu", "llm")]] * 2
