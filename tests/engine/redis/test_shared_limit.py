"""`LOCO_CAPACITY=auto`: one limit of all processes for each provider's host, and one pause."""

import pytest
import redis
from redis_server import RedisServer
from script_pair import ScriptPair
from shared_engine import Make, read_mode, submit, wait_decided, wait_queued, wait_until

from loco_otel._config.settings import Settings
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.in_process import InProcessEngine
from loco_otel._engine.shared_limits import SharedLimits
from loco_otel._runtime.runtime import Runtime
from loco_otel.errors import ConfigurationError
from loco_otel.events import Request, ResourceSnapshot, ThrottleKind, Waiting, WaitReason
from loco_otel.snapshots import EngineMode
from loco_otel.testing import RecordingListener

AUTO = SharedLimits(None, "fifo", 0.0, 0)
HOST = "openai/api.openai.com"


@pytest.fixture
def limits() -> SharedLimits:
    return AUTO


def ask(engine: InProcessEngine, host: str = HOST) -> Ticket:
    ticket = engine.create_ticket(Request("a", 1000, (host,)))
    engine.submit(ticket)
    return ticket


def take(engine: InProcessEngine, count: int, host: str = HOST) -> list[Ticket]:
    tickets = [wait_decided(engine, ask(engine, host)) for _ in range(count)]
    assert {ticket.state for ticket in tickets} == {State.GRANTED}
    return tickets


def refuse(engine: InProcessEngine, ticket: Ticket, retry_after: float | None = None) -> None:
    engine.record_throttling(ticket, 429, ThrottleKind.LOAD, retry_after, None)


def read(engine: InProcessEngine, host: str = HOST) -> ResourceSnapshot:
    return next(it for it in engine.take_snapshot().resources if it.resource == host)


def test_a_refusal_in_one_process_lowers_the_limit_of_all(make: Make) -> None:
    here, there = make(), make()
    take(here, 4)
    leases = take(there, 4)
    refuse(there, leases[-1])
    wait_until(lambda: read(there).capacity == 4)
    waiting = wait_queued(ask(here))
    assert (read(here).capacity, here._core.has_learnt, there._core.has_learnt) == (4, True, True)
    for lease in leases:
        there.cancel(lease)
    assert waiting.state is State.WAITING
    here.release(here.list_tickets()[0])
    assert wait_decided(here, waiting).state is State.GRANTED


def test_successes_of_all_processes_raise_the_limit(make: Make) -> None:
    here, there = make(), make()
    first, second = take(here, 2), take(there, 2)
    refuse(here, first[0])
    wait_until(lambda: read(here).capacity == 2)  # else the refusal may arrive after a lease of `there` has ended
    for engine, lease in ((here, first[0]), (there, second[0])):
        engine.cancel(lease)
    there.release(second[1])
    wait_until(lambda: read(there).capacity == 3)


def test_a_pause_holds_for_all_processes(make: Make) -> None:
    here, there = make(), make()
    listener = RecordingListener()
    there.add_listener(listener)
    refuse(here, take(here, 3)[0], 30.0)
    wait_until(lambda: read(here).pause > 20)
    wait_queued(ask(there))
    there.flush()
    assert [it.reason for it in listener.events if isinstance(it, Waiting)] == [WaitReason.PROVIDER_PAUSE]
    assert 20 < read(there).pause <= 30


def test_waiters_are_granted_after_the_pause(make: Make) -> None:
    here, there = make(), make()
    leases = take(here, 3)
    refuse(here, leases[0], 1.0)
    for lease in leases:
        here.cancel(lease)
    waiters = {engine: ask(engine) for engine in (there, here)}
    while waiters:  # the limit is 1
        wait_until(lambda: any(ticket.state is State.GRANTED for ticket in waiters.values()))
        engine = next(engine for engine, ticket in waiters.items() if ticket.state is State.GRANTED)
        engine.release(waiters.pop(engine))


def test_each_host_has_its_own_limit(make: Make) -> None:
    engine = make()
    other = "mistral/api.mistral.ai"
    refuse(engine, take(engine, 2)[0])
    take(engine, 3, other)
    wait_queued(ask(engine))
    assert (read(engine).capacity, read(engine, other).capacity) == (1, None)


def test_the_maximum_is_stated_and_changed_for_all(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    here, there = make(AUTO._replace(capacity_max=2)), make(AUTO._replace(capacity_max=2))
    take(here, 2)
    waiting = wait_queued(ask(there))
    here.restate_limits({}, AUTO._replace(capacity_max=3))
    assert wait_decided(there, waiting).state is State.GRANTED
    wait_queued(ask(there))
    wait_until(lambda: "capacity_max 3.0, not 2" in caplog.text)


def test_a_lost_state_is_given_what_was_learnt(make: Make, own_server: RedisServer) -> None:
    here, there = (make(url=own_server.url, ttl=1.0) for _ in range(2))
    leases = take(here, 8)
    refuse(here, leases[0])
    for lease in leases:
        here.cancel(lease)
    there.cancel(wait_decided(there, ask(there)))
    assert read(there).capacity == 4
    own_server.call("FLUSHALL")
    wait_until(lambda: here._link.log.generation == there._link.log.generation == 2)
    take(there, 4)
    assert wait_queued(ask(here)).state is State.WAITING
    assert (read(here).capacity, read(here).reference) == (4, 7)


def test_a_local_limit_is_the_share_of_what_was_learnt(make: Make, own_server: RedisServer) -> None:
    here, there = (make(url=own_server.url, timeout=0.25, ttl=2.0) for _ in range(2))
    leases = take(here, 9)
    refuse(here, leases[0])
    for lease in leases:
        here.cancel(lease)
    there.cancel(wait_decided(there, ask(there)))
    here.cancel(wait_decided(here, ask(here)))
    own_server.kill()
    tickets = [ask(here) for _ in range(3)]
    wait_until(lambda: read_mode(here) is EngineMode.LOCAL)
    assert [ticket.state for ticket in tickets] == [State.GRANTED, State.GRANTED, State.WAITING]
    take(here, 9, "new while it is away")
    own_server.start()
    wait_until(lambda: read_mode(here) is EngineMode.REMOTE)
    assert wait_decided(here, tickets[2]).state is State.GRANTED
    wait_until(lambda: read(here).capacity == 4)


def test_probes_become_rare_as_in_the_core(shared_server: RedisServer) -> None:
    """Of a provider that takes eight calls at a time, until the successes between two probes are at their maximum."""
    with redis.Redis(port=shared_server.port, decode_responses=True) as client:
        pair = ScriptPair(client, AUTO)
        for _ in range(700):
            pair.submit("a", 1000)
            held = pair.list_tickets(State.GRANTED)
            if len(held) > 8:
                pair.throttle(held[-1], None)
                pair.cancel(held[-1])
            elif pair.list_tickets(State.WAITING):
                pair.advance(10)
                pair.release(held[0], 0)
        limit = pair.core.resources.pools["llm"].adaptive_limit
        assert limit is not None
        assert limit._successes_required == 128
        pair.close()


def test_a_limit_that_adapts_is_listed_without_a_number(make: Make) -> None:
    engine = make()
    waiting = submit(engine)
    assert wait_decided(engine, waiting).state is State.GRANTED
    snapshot = engine.take_snapshot()
    assert snapshot.engine is not None
    assert (read(engine, "llm_api").capacity, snapshot.engine.overbooked) == (None, ())


def test_a_program_shares_the_limits_that_adapt(shared_server: RedisServer, namespace: str) -> None:
    options = {"engine": shared_server.url, "engine_namespace": namespace, "engine_timeout": 10.0, "capacity_max": 5}
    here, there = (Runtime(Settings().changed(**options)) for _ in range(2))
    leases = take(here.engine, 4)
    refuse(here.engine, leases[0])
    wait_until(lambda: here.has_learnt)
    for lease in leases:
        here.engine.cancel(lease)
    there.engine.cancel(wait_decided(there.engine, ask(there.engine)))
    assert (read(there.engine).capacity, there.has_learnt) == (2, True)
    there.apply_settings(there.settings.changed(capacity_max=1))
    wait_until(lambda: read(there.engine).capacity == 1)
    with pytest.raises(ConfigurationError, match="whether LOCO_CAPACITY is auto"):
        there.apply_settings(there.settings.changed(capacity=4))
    for runtime in (here, there):
        runtime.close()
        runtime.engine.leave()


def test_a_removed_resource_is_shared_no_more(make: Make) -> None:
    """The core removes unused ones above a thousand."""
    engine = make()
    engine.release(take(engine, 1)[0])
    take(engine, 1, "another")
    resources = engine._core.resources
    del resources.pools[HOST], resources.queue_sets[(HOST,)]
    engine.leave()  # a forked child does not have the thread that reads for its parent
    engine.after_fork()
    assert list(engine._statements) == ["another"]
