"""`[[resources]]`: each has one capacity, one order and one bucket for all processes."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from redis_server import RedisServer
from shared_engine import read_mode, wait_decided, wait_queued, wait_until
from shared_runtime import MakeRuntime, ask, get_engine, read, take

from loco_otel import SharedResource
from loco_otel._core.ticket import State
from loco_otel.cli.doctor.engine import check_engine
from loco_otel.errors import ConfigurationError
from loco_otel.events import DEFAULT_RESOURCE, ThrottleKind
from loco_otel.snapshots import EngineMode

RESOURCES = [
    {"name": "gpu", "capacity": 2},
    {"name": "tier-1", "capacity": 8, "provider": "openai", "requests_per_minute": 2},
    {"name": "hosted", "provider": "mistral", "capacity_max": 4},
]


@pytest.fixture
def resources() -> Sequence[Mapping[str, Any]]:
    return RESOURCES


def test_each_resource_has_one_capacity_for_all(make_runtime: MakeRuntime) -> None:
    here, there = make_runtime(), make_runtime()
    first, _ = take(here, "gpu"), take(there, "gpu")
    waiting = wait_queued(ask(there, "gpu"))
    take(here, DEFAULT_RESOURCE)
    assert wait_queued(ask(there, DEFAULT_RESOURCE)).state is State.WAITING
    assert waiting.state is State.WAITING
    here.engine.release(first)
    assert wait_decided(there.engine, waiting).state is State.GRANTED
    assert [read(runtime, "gpu").capacity for runtime in (here, there)] == [2, 2]


def test_view_of_a_shared_resource_has_its_capacity(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime()
    take(runtime, "gpu")
    resource = SharedResource.over(get_engine(runtime), "gpu", "gpu")
    assert (resource.capacity, resource.holder_count, resource.utilization) == (2, 1, 0.5)


def test_each_resource_has_one_bucket_for_all(make_runtime: MakeRuntime) -> None:
    here, there = make_runtime(), make_runtime()
    for runtime in (here, there):
        runtime.engine.release(take(runtime, "tier-1"))
    wait_queued(ask(there, "tier-1"))
    for _ in range(2):
        there.engine.release(take(there, "gpu"))
    assert read(there, "tier-1").used == 0


def test_a_refusal_lowers_the_limit_of_its_resource(make_runtime: MakeRuntime) -> None:
    here, there = make_runtime(), make_runtime()
    leases = [take(here, "hosted") for _ in range(4)]
    wait_queued(ask(there, "hosted"))
    here.engine.record_throttling(leases[0], 429, ThrottleKind.LOAD, 30.0, None)
    wait_until(lambda: read(here, "hosted").capacity == 2)
    assert read(here, "hosted").pause > 20
    take(here, "gpu")
    assert read(here, "gpu").capacity == 2


def test_an_added_resource_is_shared_at_once(make_runtime: MakeRuntime) -> None:
    here, there = make_runtime(), make_runtime()
    take(here, "gpu")
    added = [*RESOURCES, {"name": "disk", "capacity": 1}]
    for runtime in (here, there):
        runtime.apply_settings(runtime.settings.changed(resources=added))
    lease = take(here, "disk")
    waiting = wait_queued(ask(there, "disk"))
    here.engine.release(lease)
    assert wait_decided(there.engine, waiting).state is State.GRANTED


def test_a_changed_capacity_holds_for_all(make_runtime: MakeRuntime) -> None:
    here, there = make_runtime(), make_runtime()
    take(here, "gpu")
    take(here, "gpu")
    waiting = wait_queued(ask(there, "gpu"))
    here.apply_settings(here.settings.changed(resources=[{"name": "gpu", "capacity": 3}, *RESOURCES[1:]]))
    assert wait_decided(there.engine, waiting).state is State.GRANTED


def test_a_resource_that_is_left_out_keeps_its_limits(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime(capacity=None)
    take(runtime, "gpu")
    runtime.apply_settings(runtime.settings.changed(resources=RESOURCES[1:], capacity_max=7))
    engine = get_engine(runtime)
    assert engine._statements["gpu"].capacity == 2
    engine._link.request_sync()
    take(runtime, "gpu")
    assert wait_queued(ask(runtime, "gpu")).state is State.WAITING


def test_a_lost_state_is_rebuilt_for_each_resource(make_runtime: MakeRuntime, own_server: RedisServer) -> None:
    here, there = (make_runtime(engine=own_server.url, engine_ttl=1.0) for _ in range(2))
    leases = [take(here, "gpu"), take(there, "gpu"), take(here, DEFAULT_RESOURCE)]
    own_server.call("FLUSHALL")
    wait_until(lambda: get_engine(here)._link.log.generation == get_engine(there)._link.log.generation == 2)
    waiting = wait_queued(ask(there, "gpu"))
    take(there, "hosted")
    assert waiting.state is State.WAITING
    here.engine.release(leases[0])
    assert wait_decided(there.engine, waiting).state is State.GRANTED


def test_a_process_grants_its_share_of_each(make_runtime: MakeRuntime, own_server: RedisServer) -> None:
    resources = [{"name": "gpu", "capacity": 5}, {"name": "closed", "capacity": 0}]
    options = {"engine": own_server.url, "engine_timeout": 0.25, "resources": resources, "capacity": 2}
    here, there = (make_runtime(**options) for _ in range(2))
    for runtime in (there, here):
        runtime.engine.release(take(runtime, "gpu"))
    own_server.kill()
    asked = [ask(here, name) for name in ("gpu", "gpu", "gpu", DEFAULT_RESOURCE, DEFAULT_RESOURCE, "closed")]
    wait_until(lambda: read_mode(get_engine(here)) is EngineMode.LOCAL)
    granted = [ticket.state is State.GRANTED for ticket in asked]
    assert granted == [True, True, False, True, False, False]
    here.apply_settings(here.settings.changed(resources=[*resources, {"name": "added", "capacity": 4}]))
    take(here, "added")
    take(here, "added")
    assert ask(here, "added").state is State.WAITING


def test_another_statement_of_a_resource_is_a_warning(
    make_runtime: MakeRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    here = make_runtime()
    take(here, "gpu")
    there = make_runtime(resources=[{"name": "gpu", "capacity": 7}, {"name": "hosted", "capacity": 3}])
    take(there, "gpu")
    here.engine.release(take(here, "gpu"))
    wait_until(lambda: "other limits of gpu" in caplog.text)
    assert "capacity 7, not 2" in caplog.text
    found = " | ".join(check_engine(here.settings))
    assert "has the capacity 7 of gpu, which another process stated, and a process started now sets it to 2" in found
    assert "has the capacity 3 of hosted" in found
    assert "tier-1" not in found


def test_whether_a_capacity_adapts_is_read_at_start(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime()
    with pytest.raises(ConfigurationError, match="whether the capacity of the resource gpu is auto"):
        runtime.apply_settings(runtime.settings.changed(resources=[{"name": "gpu"}]))


def test_a_slot_may_name_several_resources(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime()
    assert runtime.resolve_resource_names(["gpu"]) == ("gpu",)
    assert runtime.resolve_resource_names(["tier-1", "gpu"]) == ("gpu", "tier-1")
