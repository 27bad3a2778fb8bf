"""Four processes that spend, and a server that dies, stalls and drops connections: the sum is exact."""

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import redis_ledger_process
from effort import scale
from patience import PATIENCE
from redis_server import RedisServer

from loco_otel._budgets.redis.reader import RedisLedgerView

FAULTS = scale(8)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("aof"), aof=True)
    yield server
    server.close()


def restart(server: RedisServer) -> None:
    server.kill()
    server.start()


def freeze(server: RedisServer) -> None:
    server.freeze()
    time.sleep(0.6)  # the fault itself: longer than processes wait
    server.thaw()


def cut(server: RedisServer) -> None:
    server.call("CLIENT", "KILL", "TYPE", "normal")


def flush_scripts(server: RedisServer) -> None:
    server.call("SCRIPT", "FLUSH")


def test_sum_is_right_whatever_the_server_does(server: RedisServer, namespace: str) -> None:
    rng = random.Random(namespace)
    arguments = (redis_ledger_process.__file__, server.url, namespace, "2", "work")
    workers = [
        subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "working\n"
    faults: list[Callable[[RedisServer], None]] = [restart, freeze, cut, flush_scripts]
    for number in range(FAULTS):
        time.sleep(rng.uniform(0.2, 0.8))  # calls go on between two faults
        faults[number % len(faults)](server)
    ends = [list(map(int, worker.communicate(timeout=PATIENCE)[0].split())) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4
    spent, calls, left = map(sum, zip(*ends, strict=True))
    view = RedisLedgerView(server.url, namespace, 60.0)
    (status,) = view.read_statuses(0.0)
    (totals,) = view.compute_totals([])
    view.close()
    assert left == 0
    assert (status.spent, totals.usd, totals.calls) == (spent, spent, calls)
    assert status.reserved == 0
    assert calls > 0
