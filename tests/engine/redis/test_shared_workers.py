"""The example: gunicorn loads a program once and forks four workers, which share two slots."""

import http.client
import json
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest
import redis
from patience import PATIENCE
from redis_server import RedisServer
from sdk_program import Running, script
from sdk_server import free_port
from shared_engine import wait_until

EXAMPLE = Path(__file__).parents[3] / "examples" / "shared_workers.py"
WAVE = 16


class Hold(NamedTuple):
    """What a worker answers."""

    worker: int
    begin: float
    end: float


def read_command(url: str) -> tuple[dict[str, str], list[str]]:
    """Return the settings and the words of the command that the example states, with this engine."""
    found = re.search(r"^ +(LOCO_.+)$", EXAMPLE.read_text(), re.MULTILINE)
    assert found
    words = shlex.split(found[1])
    settings = dict(word.split("=", 1) for word in words if word.startswith("LOCO_"))
    return {**settings, "LOCO_ENGINE": url}, words[len(settings) :]


def request_slot(port: int) -> Hold:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/", headers={"Connection": "close"})
        return Hold(**json.load(connection.getresponse()))
    finally:
        connection.close()


def find_peak(holds: list[Hold]) -> int:
    held = peak = 0
    for _, change in sorted([(hold.begin, 1) for hold in holds] + [(hold.end, -1) for hold in holds]):
        held += change
        peak = max(peak, held)
    return peak


@pytest.mark.parametrize("worker_class", ["gthread", "gevent"])
def test_forked_workers_share_the_slots(own_server: RedisServer, tmp_path: Path, worker_class: str) -> None:
    settings, (program, *options) = read_command(own_server.url)
    assert {"--preload", "--workers"} <= set(options)
    port, holds = free_port(), list[Hold]()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "LOCO_"))}
    with (
        redis.Redis(port=own_server.port, decode_responses=True) as client,
        Running(
            [
                *(script(program), f"--bind=127.0.0.1:{port}", f"--chdir={EXAMPLE.parent}", *options),
                # Gevent patches for more than the default of 30 s on a busy machine with many distributions.
                *("-k", worker_class, f"--timeout={PATIENCE:.0f}"),
            ],
            tmp_path,
            {**inherited, **settings, "LOCO_ENGINE_TIMEOUT": "10"},
        ) as gunicorn,
    ):
        gunicorn.until(lambda: gunicorn.errors().count("Booting worker") == 4)
        while len({hold.worker for hold in holds}) < 3:
            with ThreadPoolExecutor(WAVE) as threads:
                holds += threads.map(lambda _: request_slot(port), range(WAVE))
        assert find_peak(holds) == 2
        # Nobody holds or waits, and no child has what was its parent's.
        wait_until(lambda: not any(client.hlen(key) for key in client.keys("loco:*:tickets")))
        gunicorn.stop()
        assert [key for key in client.keys("loco:*") if ":number:" not in key] == [], "each has left"


GREENLETS = """
    import loco_otel

    # As a worker of gunicorn, which imports and forks before it patches: the locks are not gevent's.
    loco_otel.configure(budgets="*=1")
    from gevent import monkey

    monkey.patch_all()
    import gevent

    inside, most = 0, 0


    def call():
        global inside, most
        with loco_otel.slot("a"):
            inside += 1
            most = max(most, inside)
            gevent.sleep(0)
            inside -= 1


    def charge():
        return len(loco_otel.budgets())


    calls = [gevent.spawn(run) for run in (*[call] * 8, *[charge] * 8)]
    gevent.joinall(calls, raise_error=True)
    print(most, [call.value for call in calls[8:]])
"""


def run_program(text: str, folder: Path, settings: dict[str, str]) -> str:
    program = folder / "program.py"
    program.write_text(dedent(text))
    ran = subprocess.run(
        [sys.executable, program],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_first_greenlets_of_a_worker_take_turns(own_server: RedisServer, tmp_path: Path) -> None:
    settings = {"LOCO_ENGINE": own_server.url, "LOCO_CAPACITY": "2", "LOCO_ENGINE_TIMEOUT": "10"}
    assert run_program(GREENLETS, tmp_path, settings) == f"2 {[1] * 8}\n"


LATE_TIMER = """
    import _thread

    import loco_otel
    from loco_otel._budgets.ledger_client import LedgerClient
    from loco_otel._runtime import process
    from loco_otel.money import Charge

    run_maintenance = LedgerClient.run_maintenance
    patched, maintained = _thread.allocate_lock(), _thread.allocate_lock()  # real ones, as gevent patches later
    patched.acquire()
    maintained.acquire()


    def run_late(client):
        patched.acquire()
        patched.release()
        try:
            return run_maintenance(client)
        finally:
            if maintained.locked():
                maintained.release()


    LedgerClient.run_maintenance = run_late
    loco_otel.install()
    from gevent import monkey

    monkey.patch_all()
    import gevent

    patched.release()
    maintained.acquire()
    ledger = process.get_runtime().budgets.ledger_client.ledger


    def call(number):
        charge = Charge("a", None, None, "m", usd=1, weight=1000)
        return ledger.reserve_estimate(f"call {number}", charge, 0.0).admitted


    calls = [gevent.spawn(call, number) for number in range(8)]
    gevent.joinall(calls, raise_error=True)
    print([call.value for call in calls])
"""


def test_late_maintenance_blocks_no_greenlet(own_server: RedisServer, tmp_path: Path) -> None:
    settings = {
        "LOCO_ENGINE": own_server.url,
        "LOCO_CAPACITY": "2",
        "LOCO_ENGINE_TIMEOUT": "10",
        "LOCO_BUDGETS": "*=1",
    }
    assert run_program(LATE_TIMER, tmp_path, settings) == f"{[True] * 8}\n"
