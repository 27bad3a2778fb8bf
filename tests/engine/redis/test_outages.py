"""What a process keeps while the server is away, and how it returns: bounded, and without loss of what it owes."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis_server import RedisServer
from shared_engine import Make, acquire, read_mode, submit, wait_decided, wait_until

from loco_otel._core.ticket import State
from loco_otel._engine.redis.batches import MAX_OPERATIONS
from loco_otel._engine.redis.engine import RedisEngine
from loco_otel._engine.redis.script import make_base_key
from loco_otel._engine.shared_limits import SharedLimits
from loco_otel.events import Outcome, Spending
from loco_otel.snapshots import EngineMode

NOWHERE = "redis://127.0.0.1:1"
"""Where nothing listens."""
FAIR = SharedLimits(5000, "fair", 0.0, 0)


@pytest.fixture
def client(own_server: RedisServer) -> Iterator[Any]:
    with redis.Redis(port=own_server.port, decode_responses=True) as client:
        yield client


def lose_server(engine: RedisEngine) -> None:
    """Wait until an engine whose server is away is in the mode for that; a request starts its reader."""
    engine.cancel(submit(engine))
    wait_until(lambda: read_mode(engine) is not EngineMode.REMOTE)


def count_kept(engine: RedisEngine) -> int:
    log = engine._link.log
    return len(log._queue) + len(log._repeated) + len(log._unsent) + len(engine._core.remote.notes)


@pytest.mark.parametrize("on_error", ["closed", "local", "open"])
def test_calls_while_the_server_is_away_leave_nothing(make: Make, on_error: str) -> None:
    engine = make(url=NOWHERE, timeout=0.25, on_error=on_error)
    lose_server(engine)
    for _ in range(2000):
        engine.cancel(submit(engine))
    assert count_kept(engine) == 0


def test_closed_mode_keeps_to_the_bound_of_waiters(make: Make) -> None:
    """The server answers no request, so it can be no condition for the refusal."""
    engine = make(url=NOWHERE, timeout=0.25, on_error="closed", max_waiters=1)
    lose_server(engine)
    first, second = submit(engine), submit(engine)
    assert (first.state, second.outcome) == (State.WAITING, Outcome.BACKPRESSURE)
    engine.cancel(first)
    assert submit(engine).state is State.WAITING
    assert submit(engine, timeout=0).outcome is Outcome.TIMEOUT
    assert count_kept(engine) <= 1


def test_bound_of_waiters_is_that_of_all_after_the_return(make: Make, own_server: RedisServer) -> None:
    """A burst within the capacity is no back-pressure again, as the server grants it."""
    limits = SharedLimits(8, "load", 0.25, 0)
    engine = make(limits, url=own_server.url, timeout=0.25, on_error="closed", max_waiters=1)
    engine.release(acquire(engine))
    own_server.kill()
    lose_server(engine)
    waiter = submit(engine)
    assert submit(engine).outcome is Outcome.BACKPRESSURE
    own_server.start()
    assert wait_decided(engine, waiter).state is State.GRANTED
    wait_until(lambda: read_mode(engine) is EngineMode.REMOTE)
    assert {wait_decided(engine, it).state for it in [submit(engine) for _ in range(7)]} == {State.GRANTED}


def test_ends_of_an_outage_reach_the_server_in_parts(
    make: Make, own_server: RedisServer, client: Any, namespace: str
) -> None:
    """With the corrections of all leases; the requests that were never sent take no part in it."""
    engine = make(FAIR, url=own_server.url, timeout=1.0, ttl=3.0, on_error="closed")
    leases = [submit(engine) for _ in range(2 * MAX_OPERATIONS + 1)]
    for lease in leases:
        wait_decided(engine, lease)
    keep = acquire(engine)
    own_server.freeze()
    wait_until(lambda: read_mode(engine) is EngineMode.CLOSED)  # after a heartbeat that is not answered
    for _ in range(5000):
        engine.cancel(submit(engine))
    for lease in leases:
        engine.release(lease, Spending(None, 3000, "m"))
    assert count_kept(engine) == len(leases)
    own_server.thaw()
    wait_until(lambda: read_mode(engine) is EngineMode.REMOTE)
    assert count_kept(engine) == 0
    (key,) = client.scan_iter(f"{make_base_key(namespace)}:*:agents:7:llm_api", count=1000)
    assert client.hget(key, "a").split("|")[0] == str((len(leases) * 3000 + 1000) * 1000)
    engine.release(acquire(engine))
    engine.release(keep)
