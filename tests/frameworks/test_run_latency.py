"""A hundred runs of one LangGraph graph against a server with four slots: `las` between runs halves their latency."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from llm_server import LlmServer
from patience import PATIENCE
from sdk_program import environ, script

PROGRAM = Path(__file__).parent / "programs" / "runs_program.py"
CAPACITY = 4
PAUSE = 1.0
"""Seconds after which a request is answered although not all slots are taken, as no more runs have begun."""


def run_program(server: LlmServer, folder: Path, **settings: str) -> list[int]:
    """Return the latency of each run, in answers to all runs.

    A request is answered when all slots are taken, so that they are what is short on a slow machine too.
    """
    server.reset()
    server.hold()
    output = folder / "output.txt"
    with output.open("w+b") as file:
        program = subprocess.Popen(
            [script("opentelemetry-instrument"), sys.executable, PROGRAM],
            env={**environ(server), "LOCO_CAPACITY": str(CAPACITY), **settings},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
        )
        while program.poll() is None:
            try:
                server.wait_for(held=CAPACITY, timeout=PAUSE)
            except TimeoutError:
                if not server.state().held:
                    continue
            server.release(1)
    assert program.wait(PATIENCE) == 0
    assert server.peak() == CAPACITY
    latencies: list[int] = json.loads(output.read_text().splitlines()[-1])
    return latencies


@pytest.mark.nightly
def test_las_between_runs_halves_their_median_latency(tmp_path: Path) -> None:
    with LlmServer() as server:
        before = run_program(server, tmp_path)
        calls = len(server.requests())
        after = run_program(server, tmp_path, LOCO_QUEUE_BY="run", LOCO_POLICY="las")
        assert len(server.requests()) == calls
    assert len(before) == len(after) == 100
    assert statistics.median(after) <= statistics.median(before) / 2, (sorted(before), sorted(after))
