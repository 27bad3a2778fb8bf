"""Four processes, faults at random: their own records show that no more slots were held than there are."""

import time
from pathlib import Path

from chaos_run import ChaosRun, judge
from effort import scale
from redis_server import RedisServer
from shared_engine import wait_until

GRANTS = scale(1000)
RATE = 240


def test_killed_processes_and_a_server_that_forgets(
    own_server: RedisServer, namespace: str, tmp_path: Path, runs: list[ChaosRun]
) -> None:
    chaos = ChaosRun(tmp_path, own_server.url, namespace)
    runs.append(chaos)

    def flush() -> None:
        chaos.wait_started()
        own_server.call("FLUSHALL")
        time.sleep(2 * chaos.ttl)  # no process newer than the loss comes first

    faults = {
        "kill": chaos.kill_worker,
        "flush": flush,
        "flush scripts": lambda: own_server.call("SCRIPT", "FLUSH"),
        "kill connections": lambda: own_server.call("CLIENT", "KILL", "TYPE", "normal"),
        "kill again": chaos.kill_worker,
    }
    chaos.run(GRANTS, faults)
    judge(chaos, own_server, namespace)


def test_rates_over_killed_processes_and_a_loss(
    own_server: RedisServer, namespace: str, tmp_path: Path, runs: list[ChaosRun]
) -> None:
    """A bucket that was granted anew after the loss would double what was granted."""
    chaos = ChaosRun(tmp_path, own_server.url, namespace, requests=RATE)
    runs.append(chaos)

    def flush() -> None:
        wait_until(lambda: chaos.count_grants() >= RATE)
        chaos.wait_started()
        own_server.call("FLUSHALL")
        time.sleep(2 * chaos.ttl)  # no process newer than the loss comes first

    chaos.run(RATE + 40, {"kill": chaos.kill_worker, "flush": flush, "kill again": chaos.kill_worker})
    judge(chaos, own_server, namespace)
    assert chaos.find_excess(RATE) < RATE / 4  # a record may be written seconds late
