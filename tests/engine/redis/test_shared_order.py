"""The order of waiters of several processes: by runs, by attained service, by tenants and by urgency."""

from math import inf
from typing import Any

import pytest
from shared_engine import LLM, Make, acquire, submit, wait_decided, wait_queued, wait_until

from loco_otel._core.priority_order import DEFAULT_PRIORITY_RULES, PriorityRule
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.redis.engine import RedisEngine
from loco_otel._engine.redis.script import make_base_key
from loco_otel._engine.shared_limits import SharedLimits
from loco_otel.events import Outcome, Priority, Request

BY_RUN = SharedLimits(1, "las", 0.0, 0, by_run=True, half_life=60.0, run_idle_timeout=600.0)


@pytest.fixture
def limits() -> SharedLimits:
    return BY_RUN


def submit_as(engine: RedisEngine, run: str | None, weight: int = 1000, **facts: Any) -> Ticket:
    ticket = engine.create_ticket(Request("agent", weight, LLM, run=run, **facts))
    engine.submit(ticket)
    return ticket


def serve(engine: RedisEngine, run: str, weight: int) -> None:
    ticket = submit_as(engine, run, weight)
    wait_until(lambda: ticket.state is State.GRANTED)
    engine.release(ticket)


def test_run_that_has_attained_least_anywhere_is_next(make: Make) -> None:
    here, there = make(), make()
    serve(here, "long", 9000)
    serve(there, "short", 2000)
    lease = acquire(here)
    # The long run has its account from here, and waits there.
    long = wait_queued(submit_as(there, "long"))
    short = wait_queued(submit_as(here, "short"))
    new = wait_queued(submit_as(there, "new"))
    here.release(lease)
    assert wait_decided(there, new).state is State.GRANTED
    there.release(new)
    assert wait_decided(here, short).state is State.GRANTED
    here.release(short)
    assert wait_decided(there, long).state is State.GRANTED


def test_waiters_join_the_queues_that_are_newly_stated(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    here, there = make(BY_RUN._replace(policy="fair", by_run=False)), make(BY_RUN._replace(policy="fair", by_run=False))
    lease = submit_as(here, "busy", 9000)
    wait_until(lambda: lease.state is State.GRANTED)
    busy = wait_queued(submit_as(here, "busy"))
    other = wait_queued(submit_as(there, "other"))
    here.restate_limits({LLM[0]: BY_RUN._replace(policy="fair")})
    wait_until(lambda: "queue_by run, not agent" in caplog.text)
    # Of one agent the older is next; of two runs that have waited both, too: then the other run.
    here.release(lease)
    assert wait_decided(here, busy).state is State.GRANTED
    again = wait_queued(submit_as(here, "busy"))
    here.release(busy)
    assert wait_decided(there, other).state is State.GRANTED
    assert again.state is State.WAITING


def test_differing_half_life_is_logged_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    here = make()
    acquire(here)
    there = make(BY_RUN._replace(half_life=inf))
    wait_queued(submit_as(there, "run"))
    wait_queued(submit_as(here, "run"))
    wait_until(lambda: "half_life inf, not 60.0" in caplog.text)
    assert caplog.text.count("half_life") == 1


def test_attained_service_ends_with_the_last_process(make: Make) -> None:
    here = make()
    serve(here, "long", 9000)
    here.leave()
    there = make()
    serve(there, "short", 2000)
    lease = acquire(there)
    short = wait_queued(submit_as(there, "short"))
    long = wait_queued(submit_as(there, "long"))
    there.release(lease)
    assert wait_decided(there, long).state is State.GRANTED
    assert short.state is State.WAITING


@pytest.mark.parametrize("policy", ["load", "las"])
def test_tenants_of_all_processes_are_served_in_turn(make: Make, policy: str) -> None:
    limits = BY_RUN._replace(policy=policy, tenant_shares={"large": 2000})
    here, there = make(limits), make(limits)
    lease = acquire(here)
    large = [wait_queued(submit_as(here, f"run-{number}", tenant="large")) for number in range(4)]
    small = wait_queued(submit_as(there, "other", tenant="small"))
    # Of equal tenants the one with the oldest waiter is first; the large one may have twice as much.
    here.release(lease)
    assert wait_decided(here, large[0]).state is State.GRANTED
    here.release(large[0])
    assert wait_decided(there, small).state is State.GRANTED
    there.release(small)
    again = wait_queued(submit_as(there, "other", tenant="small"))
    for ticket in large[1:3]:
        assert wait_decided(here, ticket).state is State.GRANTED
        assert again.state is State.WAITING
        here.release(ticket)
    assert wait_decided(there, again).state is State.GRANTED


def test_separator_in_a_name_makes_no_tenant(make: Make, client: Any, namespace: str) -> None:
    engine = make()
    lease = acquire(engine)
    waiter = wait_queued(submit(engine, "a\x1fb"))
    (key,) = client.scan_iter(f"{make_base_key(namespace)}:*:line:llm_api", count=1000)
    assert client.hget(key, "is_tenanted") != "1"
    engine.release(lease)
    assert wait_decided(engine, waiter).state is State.GRANTED


def test_urgent_calls_of_all_processes_come_first(make: Make) -> None:
    strict = {**DEFAULT_PRIORITY_RULES, Priority.INTERACTIVE: PriorityRule(8000, is_strict=True)}
    limits = BY_RUN._replace(priorities=strict)
    here, there = make(limits), make(limits)
    lease = acquire(here)
    normal = wait_queued(submit_as(here, "run"))
    urgent = wait_queued(submit_as(there, "other", priority=Priority.INTERACTIVE))
    here.release(lease)
    assert wait_decided(there, urgent).state is State.GRANTED
    there.release(urgent)
    assert wait_decided(here, normal).state is State.GRANTED


def test_earliest_deadline_of_all_processes_is_first(make: Make) -> None:
    here, there = make(), make()
    lease = acquire(here)
    late = wait_queued(submit_as(here, "run", deadline=here.read_clock() + 900))
    early = wait_queued(submit_as(there, "other", deadline=there.read_clock() + 600))
    here.release(lease)
    assert wait_decided(there, early).state is State.GRANTED
    there.release(early)
    assert wait_decided(here, late).state is State.GRANTED


def test_ceiling_of_a_class_holds_for_all_processes(make: Make) -> None:
    limits = BY_RUN._replace(capacity=2)
    here, there = make(limits), make(limits)
    first = submit_as(here, "run", priority=Priority.BACKGROUND)
    wait_until(lambda: first.state is State.GRANTED)
    second = wait_queued(submit_as(there, "other", priority=Priority.BACKGROUND))
    assert acquire(there).state is State.GRANTED
    here.release(first)
    assert wait_decided(there, second).state is State.GRANTED


def test_nested_call_of_a_class_passes_its_ceiling(make: Make) -> None:
    limits = BY_RUN._replace(
        capacity=3, priorities={**DEFAULT_PRIORITY_RULES, Priority.BACKGROUND: PriorityRule(1000, slots=1)}
    )
    here, there = make(limits), make(limits)
    # A lease of another class goes on, so not all leases of the resource wait for each other.
    acquire(there)
    outer = submit_as(here, "run", priority=Priority.BACKGROUND)
    wait_until(lambda: outer.state is State.GRANTED)
    here.set_scopes(outer, ("reader",))
    inner = wait_queued(submit_as(here, "run", priority=Priority.BACKGROUND))
    assert wait_decided(here, inner, ("reader",)).state is State.GRANTED


def test_call_past_its_deadline_leaves_the_queue(make: Make) -> None:
    here = make()
    lease = acquire(here)
    late = wait_queued(submit_as(here, "run", deadline=here.read_clock() + 0.05))
    wait_until(lambda: late.state is State.REJECTED)
    assert late.outcome is Outcome.DEADLINE
    again = wait_queued(submit_as(here, "run"))
    here.release(lease)
    assert wait_decided(here, again).state is State.GRANTED
