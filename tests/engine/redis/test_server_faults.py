"""Four processes, and a server that dies, stalls or is cut off, or a process that is frozen: no slot is held twice."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos_run import ChaosRun, judge
from effort import scale
from redis_server import RedisServer
from tcp_proxy import TcpProxy

GRANTS = scale(400)


@pytest.fixture
def proxy(own_server: RedisServer) -> Iterator[TcpProxy]:
    proxy = TcpProxy(own_server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def aof_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("aof"), aof=True)
    yield server
    server.close()


def test_a_server_that_restarts_empty(
    own_server: RedisServer, namespace: str, tmp_path: Path, runs: list[ChaosRun]
) -> None:
    chaos = ChaosRun(tmp_path, own_server.url, namespace, policy="fifo")
    runs.append(chaos)

    def restart() -> None:
        chaos.wait_started()
        own_server.kill()
        own_server.start()
        time.sleep(2 * chaos.ttl)  # no process newer than the loss comes first

    chaos.run(GRANTS, {"restart": restart})
    judge(chaos, own_server, namespace)


def test_a_server_that_lost_its_last_writes(
    aof_server: RedisServer, namespace: str, tmp_path: Path, runs: list[ChaosRun]
) -> None:
    chaos = ChaosRun(tmp_path, aof_server.url, namespace, policy="fair")
    runs.append(chaos)

    def restart() -> None:
        chaos.wait_started()
        aof_server.kill()
        aof_server.start()
        time.sleep(2 * chaos.ttl)  # no process newer than the loss comes first

    chaos.run(GRANTS, {"restart": restart, "kill": chaos.kill_worker})
    judge(chaos, aof_server, namespace)


def test_a_slow_server_and_a_bad_network(
    own_server: RedisServer, proxy: TcpProxy, namespace: str, tmp_path: Path, runs: list[ChaosRun]
) -> None:
    chaos = ChaosRun(tmp_path, proxy.url, namespace)
    runs.append(chaos)

    def freeze(seconds: float) -> None:
        own_server.freeze()
        time.sleep(seconds)
        own_server.thaw()

    def delay() -> None:
        proxy.delay = chaos.rng.uniform(0.01, 0.2)
        time.sleep(0.5)
        proxy.delay = 0.0

    def drop() -> None:
        proxy.drops_replies = True
        time.sleep(chaos.rng.uniform(0.1, 1.5 * chaos.ttl))
        proxy.drops_replies = False
        proxy.cut()

    faults = {
        "freeze": lambda: freeze(chaos.rng.uniform(0.1, 1.6 * chaos.ttl)),
        "pause": lambda: own_server.call("CLIENT", "PAUSE", str(chaos.rng.choice([100, 400, 1200]))),
        "delay": delay,
        "drop": drop,
        "cut": proxy.cut,
    }
    chaos.run(GRANTS, faults)
    judge(chaos, own_server, namespace)


def test_frozen_processes(own_server: RedisServer, namespace: str, tmp_path: Path, runs: list[ChaosRun]) -> None:
    """What a frozen process still believes to hold is left out; it takes nothing that it cannot know to be valid."""
    chaos = ChaosRun(tmp_path, own_server.url, namespace)
    runs.append(chaos)
    chaos.run(GRANTS, {"freeze": chaos.freeze_worker})
    judge(chaos, own_server, namespace)
