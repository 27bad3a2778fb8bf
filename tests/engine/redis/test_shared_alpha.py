"""`LOCO_AUTO_TUNE`: one alpha of all processes, which the script adapts."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis_server import RedisServer
from shared_engine import acquire, make_engine, submit, wait_decided, wait_queued, wait_until

from loco_otel._core.ticket import State
from loco_otel._engine.redis.engine import RedisEngine
from loco_otel._engine.shared_limits import SharedLimits

Make = Callable[..., RedisEngine]

TUNED = SharedLimits(1, "load", 0.25, 0, auto_tune=True)
LOWERED = pytest.approx(0.9 / 11)
"""The bound for ten arrivals per release."""


@pytest.fixture
def make(shared_server: RedisServer, namespace: str) -> Iterator[Make]:
    engines: list[RedisEngine] = []

    def create(limits: SharedLimits = TUNED, **options: Any) -> RedisEngine:
        engines.append(make_engine(shared_server.url, namespace, limits, **{"timeout": 10.0, **options}))
        return engines[-1]

    yield create
    for engine in engines:
        engine.close()
        engine.leave()


def read_alpha(engine: RedisEngine) -> float:
    return engine.take_snapshot().resources[0].alpha


def flood(here: RedisEngine, there: RedisEngine) -> None:
    """Release twice, while ten requests arrive; those of `there` get the slots."""
    lease = acquire(here)
    waiting = [wait_queued(submit(there)) for _ in range(2)]
    here.release(lease)
    wait_decided(there, waiting[0])
    for _ in range(10):
        wait_queued(submit(there))
    there.release(waiting[0])
    wait_decided(there, waiting[1])


def test_alpha_follows_the_requests_of_all_processes(make: Make) -> None:
    here, there = make(), make()
    flood(here, there)
    assert read_alpha(there) == LOWERED
    wait_queued(submit(here))
    assert read_alpha(here) == LOWERED


def test_a_process_that_starts_keeps_the_alpha(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    here, there = make(), make()
    flood(here, there)
    late = make()
    wait_queued(submit(late))
    assert read_alpha(late) == LOWERED
    assert "another process has stated" not in caplog.text
    late.restate_limits({"llm_api": TUNED._replace(auto_tune=False)})
    wait_queued(submit(here))
    wait_until(lambda: read_alpha(here) == 0.25)
    wait_until(lambda: "auto_tune False, not True" in caplog.text)
    assert {ticket.state for ticket in late.list_tickets()} == {State.WAITING}
