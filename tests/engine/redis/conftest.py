"""Engines on the server of the session, and runs of processes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import redis
from chaos_run import ChaosRun
from redis_server import RedisServer
from shared_engine import Make, make_engine
from shared_runtime import MakeRuntime

from loco_otel._config.settings import Settings
from loco_otel._engine.redis.engine import RedisEngine
from loco_otel._engine.shared_limits import SharedLimits
from loco_otel._runtime.runtime import Runtime


@pytest.fixture
def limits() -> SharedLimits | None:
    """Return the limits of engines whose test states none."""
    return None


@pytest.fixture
def make(shared_server: RedisServer, namespace: str, limits: SharedLimits | None) -> Iterator[Make]:
    """Return a function that makes engines, as many processes have them; they leave at the end of the test."""
    engines: list[RedisEngine] = []

    def create(own: SharedLimits | None = limits, *, url: str = shared_server.url, **options: Any) -> RedisEngine:
        engines.append(make_engine(url, namespace, own, **{"timeout": 10.0, **options}))
        return engines[-1]

    yield create
    for engine in engines:
        engine.close()
        engine.leave()


@pytest.fixture
def resources() -> Sequence[Mapping[str, Any]]:
    """Return the resources of runtimes whose test states none."""
    return ()


@pytest.fixture
def make_runtime(
    shared_server: RedisServer, namespace: str, resources: Sequence[Mapping[str, Any]]
) -> Iterator[MakeRuntime]:
    """Return a function that makes runtimes, as many processes have them."""
    made: list[Runtime] = []

    def create(**changes: Any) -> Runtime:
        options = {"engine": shared_server.url, "engine_namespace": namespace, "engine_timeout": 10.0, "capacity": 1}
        made.append(Runtime(Settings().changed(**{**options, "resources": resources, **changes})))
        return made[-1]

    yield create
    for runtime in made:
        runtime.close()
        runtime.engine.leave()


@pytest.fixture
def client(shared_server: RedisServer) -> Iterator[Any]:
    """Return a client of the server of the session."""
    with redis.Redis(port=shared_server.port, decode_responses=True) as client:
        yield client


@pytest.fixture
def runs() -> Iterator[list[ChaosRun]]:
    """Return a list of runs that end with the test, also if it fails."""
    runs: list[ChaosRun] = []
    yield runs
    for chaos in runs:
        chaos.kill_all()
