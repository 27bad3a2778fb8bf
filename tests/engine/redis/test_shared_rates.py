"""Rates per minute of all processes together: one bucket on the server, and shares of it while that is away."""

import itertools
import json
from typing import Any

import pytest
import redis
from redis_server import RedisServer
from shared_engine import LLM, Make, read_mode, wait_decided, wait_queued, wait_until

from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.redis.batches import GateState, Reply
from loco_otel._engine.redis.engine import RedisEngine
from loco_otel._engine.redis.script import SOURCE, make_base_key
from loco_otel._engine.redis.statements import make_statement
from loco_otel._engine.shared_limits import SharedLimits
from loco_otel.events import Gated, Request, Spending, Usage, Waiting, WaitReason
from loco_otel.snapshots import EngineMode
from loco_otel.testing import RecordingListener

SLOW = SharedLimits(8, "fifo", 0.0, 0, requests_per_minute=4)
"""The next request is allowed after 15 s."""


@pytest.fixture
def limits() -> SharedLimits:
    return SLOW


def ask(engine: RedisEngine, tokens: int = 0) -> Ticket:
    ticket = engine.create_ticket(Request("a", 1000, LLM, None, tokens=tokens))
    engine.submit(ticket)
    return ticket


def take(engine: RedisEngine, tokens: int = 0) -> Ticket:
    ticket = wait_decided(engine, ask(engine, tokens))
    assert ticket.state is State.GRANTED
    return ticket


def test_processes_take_from_one_bucket(make: Make) -> None:
    here, there = make(), make()
    for _ in range(2):
        here.release(take(here))
        there.release(take(there))
    assert [wait_queued(ask(engine)).state for engine in (here, there)] == [State.WAITING] * 2


def test_a_wait_states_the_rate_that_delays_it(make: Make) -> None:
    engine = make()
    listener = RecordingListener()
    for _ in range(4):
        take(engine)
    engine.add_listener(listener)
    wait_queued(ask(engine))
    engine.flush()
    waits = [event.reason for event in listener.events if isinstance(event, Waiting)]
    gates = [event.cause.value for event in listener.events if isinstance(event, Gated)]
    assert (waits, gates) == ([WaitReason.RATE_LIMIT], ["requests"])
    ((cause, seconds),) = engine.take_snapshot().resources[0].gates
    assert cause == "requests"
    assert 0 < seconds <= 15


def test_a_correction_opens_the_bucket_for_another_process(make: Make) -> None:
    limits = SharedLimits(9, "fifo", 0.0, 0, tokens_per_minute=1000)
    here, there = make(limits), make(limits)
    lease = take(here, 1000)
    waiting = wait_queued(ask(there, 900))
    here.release(lease, Spending(Usage(20, 30), 1000, "m"))
    assert wait_decided(there, waiting).state is State.GRANTED


def test_a_pause_and_a_cancelled_call_return_their_tokens(make: Make) -> None:
    limits = SharedLimits(9, "fifo", 0.0, 0, tokens_per_minute=1000)
    here, there = make(limits), make(limits)
    lease = take(here, 1000)
    waiting = wait_queued(ask(there, 1000))
    here.suspend_ticket(lease)
    wait_decided(there, waiting)
    again = wait_queued(ask(here, 1000))
    there.cancel(waiting)
    assert wait_decided(here, again).state is State.GRANTED


def test_a_waiter_is_granted_once_the_bucket_is_full_enough(make: Make) -> None:
    limits = SharedLimits(9, "fifo", 0.0, 0, tokens_per_minute=60_000)
    here, there = make(limits), make(limits)
    take(here, 60_000)
    late = [ask(engine, 200) for engine in (here, there, here, there)]
    assert {wait_decided(engine, it).state for engine, it in zip((here, there) * 2, late, strict=True)} == {
        State.GRANTED
    }


def test_what_was_spent_counts_after_the_last_process_has_left(make: Make, client: Any, namespace: str) -> None:
    first = make()
    for _ in range(4):
        first.release(take(first))
    first.close()
    wait_until(lambda: len(client.keys(f"loco:{{{namespace}}}:*")) == 1)
    assert 0 < client.pttl(f"{make_base_key(namespace)}:rates:llm_api") <= 60_000
    assert wait_queued(ask(make())).state is State.WAITING
    assert client.pttl(f"{make_base_key(namespace)}:rates:llm_api") == -1


def test_a_lost_bucket_starts_empty(make: Make, own_server: RedisServer) -> None:
    here, there = (make(url=own_server.url, ttl=1.0) for _ in range(2))
    take(here)
    there.release(take(there))
    own_server.call("FLUSHALL")
    wait_until(lambda: here._link.log.generation == there._link.log.generation == 2)
    waiting = ask(there)
    wait_until(lambda: bool(there.take_snapshot().resources[0].gates))
    assert waiting.state is State.WAITING


def test_a_local_bucket_has_the_share_of_the_last_level(
    make: Make, own_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = (make(url=own_server.url, timeout=0.25, ttl=2.0) for _ in range(2))
    there.release(take(there))
    here.release(take(here))  # 2 of 4 are left, 1 for each
    own_server.kill()
    tickets = [ask(here) for _ in range(2)]
    wait_until(lambda: read_mode(here) is EngineMode.LOCAL)
    assert [ticket.state for ticket in tickets] == [State.GRANTED, State.WAITING]
    wait_until(lambda: "at most 4 concurrent calls, 2 requests per minute of llm_api" in caplog.text)


def test_what_was_granted_alone_is_taken_from_the_bucket(make: Make, own_server: RedisServer) -> None:
    """The server was away, and has lost nothing."""
    engine = make(url=own_server.url, timeout=0.25, ttl=60.0)
    engine.release(take(engine))
    own_server.freeze()
    for _ in range(3):
        engine.release(take(engine))
    assert read_mode(engine) is EngineMode.LOCAL
    own_server.thaw()
    wait_until(lambda: read_mode(engine) is EngineMode.REMOTE)
    assert wait_queued(ask(engine)).state is State.WAITING


class Script:
    """Calls the script as processes do."""

    def __init__(self, client: Any, base: str) -> None:
        self._step, self._base = client.register_script(SOURCE), base

    def send(self, owner: str, number: int, *operations: Any) -> Any:
        arguments = [owner, number, 1, 60_000, json.dumps(operations), 1]
        return json.loads(self._step(keys=[self._base], args=arguments))


@pytest.fixture
def script(client: Any, namespace: str) -> Script:
    script = Script(client, make_base_key(namespace))
    for owner in ("p", "q"):
        statement = make_statement(SLOW, "llm", 0)
        script.send(owner, 1, ["sync", 1, 1, "", -1, [statement], [], [], "host 1", [], []])
    return script


def read_level(client: Any, namespace: str) -> float:
    return float(client.hget(f"{make_base_key(namespace)}:rates:llm", "requests").split("|")[1])


def test_a_repeated_batch_takes_nothing(script: Script, client: Any, namespace: str) -> None:
    submission = ["submit", "p-1", "llm", "a", 1000, 0, 0, 0]
    for _ in range(2):
        script.send("p", 2, submission)
    assert read_level(client, namespace) == 3
    end = ["end", "p-1", 0, -1, 0]
    for number in (3, 3, 4):  # once more by its number, once more by its ticket
        script.send("p", number, end)
    assert read_level(client, namespace) == 4


def test_a_waiter_that_leaves_returns_nothing(script: Script, client: Any, namespace: str) -> None:
    for number in range(1, 5):
        script.send("p", number + 1, ["submit", f"p-{number}", "llm", "a", 1000, 0, 0, 0])
    waiting = ["submit", "q-1", "llm", "a", 1000, 0, 0, 0]
    script.send("q", 2, waiting)
    script.send("q", 3, ["end", "q-1", 0, -1, 0])  # it waited: it has taken nothing
    assert read_level(client, namespace) < 1


def test_buckets_are_empty_after_lost_writes(script: Script, client: Any, namespace: str) -> None:
    """Of a server that restarted from its append-only file: processes have answers that it does not have."""
    script.send("p", 2, ["submit", "p-1", "llm", "a", 1000, 0, 0, 0])
    (epoch,) = client.hmget(f"{make_base_key(namespace)}:config", "epoch")
    for owner, number in (("p", 8), ("q", 8)):
        script.send(owner, number, ["sync", 1, 1, epoch, 7, [make_statement(SLOW, "llm", 1)], [], [], "host 1", [], []])
        assert read_level(client, namespace) == 0


def read_gate(reply: Any) -> GateState:
    gate = Reply.parse(reply).lines[0].gate
    assert gate is not None
    return gate


def test_one_process_comes_when_the_bucket_opens(script: Script) -> None:
    for number in range(1, 5):
        script.send("p", number + 1, ["submit", f"p-{number}", "llm", "a", 1000, 0, 0, 0])
    gates = [
        read_gate(script.send(owner, 6 if owner == "p" else 2, ["submit", f"{owner}-9", "llm", "a", 1000, 0, 0, 0]))
        for owner in ("p", "q")
    ]
    assert [(gate.cause, gate.is_named) for gate in gates] == [("requests", True), ("requests", False)]
    script.send("p", 7, ["leave"])
    assert read_gate(script.send("q", 3, ["beat", ["llm"]])).is_named


def test_no_storm_while_a_rate_is_closed(make: Make, own_server: RedisServer) -> None:
    limits = SharedLimits(9, "fifo", 0.0, 0, requests_per_minute=6)
    engines = [make(limits, url=own_server.url) for _ in range(8)]
    for _ in range(6):
        take(engines[0])
    tickets = [ask(engine) for engine, _ in itertools.product(engines, range(63))]
    wait_until(lambda: not any(ticket.is_unanswered for ticket in tickets))
    with redis.Redis(port=own_server.port, decode_responses=True) as client:
        before, begin = read_calls(client), client.time()
        wait_until(lambda: client.time()[0] > begin[0] + 2)
        calls, end = read_calls(client) - before, client.time()
    assert calls <= 4 * 8 * (end[0] - begin[0] + 1)


def read_calls(client: Any) -> int:
    return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])
