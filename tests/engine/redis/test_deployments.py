"""Engine, ledger and commands on each deployment: Valkey's URL, TLS, few rights, Sentinel, a cluster."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner
from patience import PATIENCE
from redis_deployments import (
    ACL,
    Deployment,
    start_cluster,
    start_sentinel,
    start_sentinel_with_password,
    start_tls,
    start_with_user,
    start_with_valkey_url,
)
from redis_ledger_process import make_charge, make_ledger
from sdk_server import free_port
from shared_engine import Make, acquire, read_mode, submit, wait_decided, wait_queued, wait_until

from loco_otel._config.engine_rules import EngineAddress
from loco_otel._core.ticket import State
from loco_otel._engine.redis.address import open_connection
from loco_otel.cli.main import main
from loco_otel.snapshots import EngineMode

Start = Callable[[Path], AbstractContextManager[Deployment]]

STARTS = [
    *(start_with_valkey_url, start_tls, start_with_user),
    *(start_sentinel, start_sentinel_with_password, start_cluster),
]


@pytest.fixture(params=STARTS, ids=[start.__name__.removeprefix("start_") for start in STARTS])
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    start: Start = request.param
    with start(tmp_path) as deployment:
        yield deployment


def test_processes_share_an_engine(make: Make, deployment: Deployment) -> None:
    here, there = (make(url=deployment.url) for _ in range(2))
    lease = acquire(here)
    waiter = wait_queued(submit(there))
    here.release(lease)
    assert wait_decided(there, waiter).state is State.GRANTED
    assert [read_mode(engine) for engine in (here, there)] == [EngineMode.REMOTE] * 2


def test_processes_share_a_ledger(deployment: Deployment, namespace: str) -> None:
    here, there = (make_ledger(deployment.url, namespace) for _ in range(2))
    assert here.reserve_estimate("1", make_charge(600), 0.0).admitted
    assert not there.reserve_estimate("2", make_charge(600), 0.0).admitted
    here.settle_reservation("1", make_charge(300), 0.0)
    assert there.reserve_estimate("3", make_charge(600), 0.0).admitted
    for ledger in (here, there):
        ledger.close()


def test_commands_read_the_server(make: Make, deployment: Deployment, namespace: str) -> None:
    acquire(make(url=deployment.url))
    environ = {"LOCO_ENGINE": deployment.url, "LOCO_ENGINE_NAMESPACE": namespace, "LOCO_ENGINE_TIMEOUT": "10"}
    done = CliRunner().invoke(main, ["ps", "--engine", deployment.url, "--json"], env=environ)
    assert [it["state"] for it in json.loads(done.output)["tickets"]] == ["holding"]
    examined = CliRunner().invoke(main, ["doctor"], env=environ).output
    assert "does not answer" not in examined
    ledger = make_ledger(deployment.url, namespace)
    ledger.settle_reservation("1", make_charge(300), 0.0)
    done = CliRunner().invoke(main, ["budgets", "--json"], env={**environ, "LOCO_LEDGER": deployment.url})
    assert [it["spent"] for it in json.loads(done.output)["budgets"]] == [0.0003]
    ledger.close()


def test_sentinels_that_are_down_or_refuse_cause_no_sleep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> None:
        pytest.fail(f"sleeps for {seconds} s")

    with start_sentinel_with_password(tmp_path) as deployment:
        monkeypatch.setattr("redis.retry.sleep", sleep)
        down = deployment.url.replace("@", f"@127.0.0.1:{free_port()},")
        open_connection(EngineAddress.parse(down), PATIENCE).disconnect()


def test_engine_follows_a_failover(make: Make, tmp_path: Path) -> None:
    with start_sentinel(tmp_path) as deployment:
        here, there = (make(url=deployment.url, timeout=1.0) for _ in range(2))
        lease = acquire(here)
        assert deployment.fail_over is not None
        deployment.fail_over()
        wait_until(lambda: read_mode(here) is read_mode(there) is EngineMode.REMOTE)
        waiter = wait_queued(submit(there))
        here.release(lease)
        assert wait_decided(there, waiter).state is State.GRANTED


def test_documented_rights_are_those_of_the_test() -> None:
    documented = Path(__file__, "../../../../docs/engine.md").resolve().read_text()
    assert f"ACL SETUSER loco {ACL.replace('secret', 'password')}\n" in documented


def test_error_names_the_sentinels_without_a_primary() -> None:
    address = EngineAddress.parse(f"redis+sentinel://127.0.0.1:{(port := free_port())}/main")
    with pytest.raises(redis.ConnectionError, match=rf"^no sentinel of 127\.0\.0\.1:{port} returns .* 'main'"):
        open_connection(address, 5.0)
