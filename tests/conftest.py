"""What every test starts with: no scheduler, no setting of the shell that runs the tests, nothing logged yet."""

import gc
import os
import uuid
from collections.abc import Iterator

import pytest
from effort import scale
from hypothesis import HealthCheck, settings
from redis_server import RedisServer

from loco_otel._runtime import faults, process

# Without a bound of time: an example takes as long as a busy machine needs.
settings.register_profile(
    "effort", max_examples=scale(100), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("effort")


def pytest_collection_finish() -> None:
    """Leave what all test modules have imported out of collections, which tests request: each would take seconds."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def fresh_runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Drop the process's scheduler before and after; calls that still wait then are rejected."""
    for name in tuple(os.environ):
        if name.startswith(("LOCO_", "OTEL_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(faults, "_logged", set())
    process.replace_runtime(None)
    yield
    process.replace_runtime(None)


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.close()


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Return a server that the test may harm."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.close()


@pytest.fixture
def namespace() -> str:
    return uuid.uuid4().hex
