"""The ways of waiting that must behave alike, and a scheduler of one slot whose clock the test moves."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import uvloop
from callers import Desk, Loop, Threads, Way
from settled_engine import SettledEngine

from loco_otel import Settings
from loco_otel._engine.in_process import InProcessEngine
from loco_otel._engine.redis import engine as redis_engine
from loco_otel._runtime import process
from loco_otel._runtime import runtime as runtime_module
from loco_otel.testing import ManualClock

LOOPS: dict[str, Callable[[], Loop]] = {
    "asyncio": partial(Loop, asyncio.new_event_loop),
    "uvloop": partial(Loop, uvloop.new_event_loop),
}
if hasattr(asyncio, "eager_task_factory"):
    LOOPS["eager"] = partial(Loop, asyncio.new_event_loop, eager=True)

WAYS: dict[str, Callable[[], Way]] = {"threads": Threads, **LOOPS}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    way = WAYS[request.param]()
    yield way
    way.close()


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    loop = LOOPS[request.param]()
    yield loop
    loop.close()


@pytest.fixture(params=["memory", "redis"])
def desk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, namespace: str) -> Desk:
    clock = ManualClock()
    settings = Settings().changed(capacity=1)
    if request.param == "redis":
        server = request.getfixturevalue("shared_server")
        settings = settings.changed(engine=server.url, engine_namespace=namespace, engine_timeout=10)
        shared = partial(SettledEngine, clock=clock, timer=False)
        monkeypatch.setattr(redis_engine, "RedisEngine", shared)
    engine = partial(InProcessEngine, clock=clock, timer=False)
    monkeypatch.setattr(runtime_module, "InProcessEngine", engine)
    runtime = process.replace_runtime(settings)
    assert runtime is not None
    return Desk(runtime.engine, clock)
