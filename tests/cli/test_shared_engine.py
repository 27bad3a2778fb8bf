"""`loco-otel ps --engine` and the doctor's findings about a shared engine."""

import json
import os
import re
import subprocess
from collections.abc import Iterator

import pytest
import redis
from click.testing import CliRunner
from redis_server import PROGRAM, RedisServer
from shared_engine import acquire, make_engine, submit, wait_queued

from loco_otel._budgets.redis.ledger import LedgerServer, RedisLedger
from loco_otel._config.settings import Settings
from loco_otel._engine.redis import inspection
from loco_otel._engine.redis.script import make_base_key
from loco_otel._engine.shared_limits import SharedLimits
from loco_otel.cli.doctor.engine import check_engine, check_ledger
from loco_otel.cli.main import main
from loco_otel.money import Budget, Charge, Period, Scope


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


def test_ps_omits_what_a_dead_process_has_left(shared_server: RedisServer, namespace: str) -> None:
    here = make_engine(shared_server.url, namespace)
    acquire(here, "analyst")
    here._link._is_closing = True  # it ends without a word
    here._link._wake_reader()
    environ = {"LOCO_ENGINE_NAMESPACE": namespace}
    with redis.Redis.from_url(shared_server.url, decode_responses=True) as client:
        base = make_base_key(namespace)
        processes = f"{base}:{client.hget(f'{base}:config', 'epoch')}:processes"
        client.zadd(processes, {here._link._owner: 1})  # its lease ended long ago
    done = CliRunner().invoke(main, ["ps", "--engine", shared_server.url, "--json"], env=environ)
    assert (json.loads(done.output)["processes"], json.loads(done.output)["tickets"]) == (0, [])
    shown = CliRunner().invoke(main, ["ps", "--engine", shared_server.url], env=environ).output
    assert "llm_api: 0 of 1 slots held, 0 waiting, 0 processes" in " ".join(shown.split())


def test_ps_of_a_server_that_is_away_names_it_without_password() -> None:
    done = CliRunner().invoke(main, ["ps", "--engine", "redis://:secret@127.0.0.1:1"])
    assert done.exit_code == 1
    assert "redis://:***@127.0.0.1:1 cannot be read" in done.output
    assert "secret" not in done.output


def test_ps_shows_a_limit_that_adapts(shared_server: RedisServer, namespace: str) -> None:
    engine = make_engine(shared_server.url, namespace, SharedLimits(None, "fifo", 0.0, 0))
    acquire(engine)
    environ = {"LOCO_ENGINE_NAMESPACE": namespace}
    shown = CliRunner().invoke(main, ["ps", "--engine", shared_server.url], env=environ).output
    assert "llm_api: 1 of unlimited slots held" in " ".join(shown.split())
    found = " | ".join(check(shared_server.url, namespace))
    assert "has the capacity" not in found
    assert "does not answer" not in found
    engine.close()
    engine.leave()


def test_doctor_names_a_fixed_capacity_beside_one_that_adapts(shared_server: RedisServer, namespace: str) -> None:
    engine = make_engine(shared_server.url, namespace, SharedLimits(8, "load", 0.25, 0))
    acquire(engine)
    assert "while this one adapts" in " | ".join(check(shared_server.url, namespace, None))
    engine.leave()


def check(url: str, namespace: str, capacity: int | None = 4) -> list[str]:
    return list(check_engine(Settings().changed(engine=url, engine_namespace=namespace, capacity=capacity)))


def test_doctor_accepts_a_good_server(shared_server: RedisServer, namespace: str) -> None:
    settings = Settings().changed(engine=shared_server.url, engine_namespace=namespace, capacity=4, engine_timeout=10)
    assert list(check_engine(settings)) == []
    assert list(check_engine(Settings())) == []


def test_doctor_names_an_old_server_and_its_version(
    shared_server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"(Redis|Valkey) server v=([\d.]+) ", shown)
    assert found is not None, shown
    name, version = found[1].lower(), found[2]
    monkeypatch.setitem(inspection._MIN_VERSIONS, name, (99, 0))
    expected = f"is {name} {version}: Redis 7.0 or Valkey 7.2 is the oldest that is supported"
    assert expected in " | ".join(check(shared_server.url, namespace))


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
def own_engine_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.close()


def test_budgets_and_spending_are_read_from_a_server(shared_server: RedisServer, namespace: str) -> None:
    budgets = [Budget(Scope.ALL, "*", 20_000_000), Budget(Scope.AGENT, "analyst", 5_000_000, period=Period.DAY)]
    ledger = RedisLedger(LedgerServer(shared_server.url, namespace, 5.0, 60.0), budgets)
    charge = Charge("analyst", None, "red", "gpt-4o", 1_250_001, 3000)
    ledger.settle_reservation("1", charge, 0.0)
    ledger.reserve_estimate("2", charge._replace(usd=250_000), 0.0)
    environ = {"LOCO_ENGINE_NAMESPACE": namespace}
    done = CliRunner().invoke(main, ["budgets", "--ledger", shared_server.url, "--json"], env=environ)
    amounts = {it["key"]: (it["limit"], it["spent"], it["reserved"]) for it in json.loads(done.output)["budgets"]}
    assert amounts == {"*": (20.0, 1.250001, 0.25), "analyst": (5.0, 1.250001, 0.25)}
    environ["LOCO_LEDGER"] = shared_server.url
    done = CliRunner().invoke(main, ["spend", "--by", "team", "--json"], env=environ)
    assert [(it["team"], it["calls"], it["usd"]) for it in json.loads(done.output)["spend"]] == [("red", 1, 1.250001)]
    done = CliRunner().invoke(main, ["spend", "--by", "colour"], env=environ)
    assert "'colour'" in done.output
    ledger.close()


def test_reading_a_ledger_creates_no_key(own_engine_server: RedisServer) -> None:
    for command in ("budgets", "spend"):
        done = CliRunner().invoke(main, [command, "--ledger", own_engine_server.url])
        assert done.exit_code == 0, done.output
    assert own_engine_server.call("DBSIZE") == b":0\r\n"


def test_ledger_that_is_away_is_named_without_password() -> None:
    for command in ("budgets", "spend"):
        done = CliRunner().invoke(main, [command, "--ledger", "redis://:secret@127.0.0.1:1"])
        assert done.exit_code == 1
        assert "the ledger redis://:***@127.0.0.1:1 can't be used" in done.output
        assert "secret" not in done.output


def test_doctor_checks_the_server_of_the_ledger(own_engine_server: RedisServer, namespace: str) -> None:
    settings = Settings().changed(ledger=own_engine_server.url, engine_namespace=namespace, engine_timeout=10)
    own_engine_server.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    found = " | ".join(check_ledger(settings))
    assert "maxmemory-policy allkeys-lru" in found
    assert "forgets what is spent when it restarts" in found
    own_engine_server.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
    own_engine_server.call("CONFIG", "SET", "appendonly", "yes")
    assert list(check_ledger(settings)) == []
    own_engine_server.kill()
    assert "does not answer" in next(check_ledger(settings))
    shared = Settings().changed(engine=own_engine_server.url, capacity=4)
    assert list(check_ledger(shared)) == [], "without budgets it has nothing to do"
    assert "does not answer" in next(check_ledger(shared.changed(budgets="*=1")))
