"""`loco-otel ps --engine` and the doctor's findings about a shared engine."""

import json
import os

import pytest
from click.testing import CliRunner
from redis_server import RedisServer
from shared_engine import acquire, make_engine, submit, wait_queued

from loco_otel._config.settings import Settings
from loco_otel._engine.shared_limits import SharedLimits
from loco_otel.cli.doctor.engine import check_engine
from loco_otel.cli.main import main


def test_ps_lists_the_requests_of_all_processes(shared_server: RedisServer, namespace: str) -> None:
    here, there = make_engine(shared_server.url, namespace), make_engine(shared_server.url, namespace)
    acquire(here, "analyst")
    wait_queued(submit(there, "writer", 2500))
    environ = {"LOCO_ENGINE_NAMESPACE": namespace}
    done = CliRunner().invoke(main, ["ps", "--engine", shared_server.url, "--json"], env=environ)
    output = json.loads(done.output)
    assert (output["capacities"], output["processes"]) == ({"llm_api": 1}, 2)
    assert [(it["agent"], it["state"], it["weight"], it["pid"]) for it in output["tickets"]] == [
        ("analyst", "holding", 1000, os.getpid()),
        ("writer", "waiting", 2500, os.getpid()),
    ]
    shown = CliRunner().invoke(main, ["ps", "--engine", shared_server.url], env=environ).output
    assert "llm_api: 1 of 1 slots held, 1 waiting, 2 processes" in " ".join(shown.split())
    for engine in (here, there):
        engine.close()
        engine.leave()


def test_ps_of_a_server_that_is_away_names_it_without_password() -> None:
    done = CliRunner().invoke(main, ["ps", "--engine", "redis://:secret@127.0.0.1:1"])
    assert done.exit_code == 1
    assert "redis://:***@127.0.0.1:1 cannot be read" in done.output
    assert "secret" not in done.output


def check(url: str, namespace: str, capacity: int = 4) -> list[str]:
    return list(check_engine(Settings().changed(engine=url, engine_namespace=namespace, capacity=capacity)))


def test_doctor_accepts_a_good_server(shared_server: RedisServer, namespace: str) -> None:
    settings = Settings().changed(engine=shared_server.url, engine_namespace=namespace, capacity=4, engine_timeout=10)
    assert list(check_engine(settings)) == []
    assert list(check_engine(Settings())) == []


def test_doctor_names_what_is_wrong(own_engine_server: RedisServer, namespace: str) -> None:
    own_engine_server.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    engine = make_engine(own_engine_server.url, namespace, SharedLimits(8, "load", 0.25, 0))
    acquire(engine)
    found = " | ".join(check(own_engine_server.url, namespace))
    assert "maxmemory-policy allkeys-lru" in found
    assert "has the capacity 8" in found
    engine.leave()
    own_engine_server.kill()
    assert "does not answer" in check(own_engine_server.url, namespace)[0]


@pytest.fixture
def own_engine_server(tmp_path_factory: pytest.TempPathFactory) -> RedisServer:
    return RedisServer(tmp_path_factory.mktemp("redis"))
