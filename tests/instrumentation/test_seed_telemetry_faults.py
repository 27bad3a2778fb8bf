"""Row D22 of the seed's faults: the same experiment on the page of a real process, and it comes out right."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from llm_server import LlmServer
from patience import PATIENCE
from sdk_collector import Collector
from sdk_server import free_port
from workload import Worker, start_worker

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry import catalogue
from loco_otel.cli.metrics_page import MetricsPage, fetch_page

DOCUMENTED = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text()


@pytest.fixture
def server() -> Iterator[LlmServer]:
    with LlmServer() as server:
        yield server


@pytest.fixture
def worker(server: LlmServer, tmp_path: Path) -> Iterator[Worker]:
    with Collector() as collector:
        settings = {"LOCO_CAPACITY": "1", "LOCO_LEDGER": str(tmp_path / "ledger.db")}
        with start_worker(server, tmp_path / "worker", free_port(), collector.port, **settings) as worker:
            worker.until_done(0)
            yield worker


def _read_page(worker: Worker) -> MetricsPage:
    return fetch_page(f"http://127.0.0.1:{worker.port}/metrics", PATIENCE)


def _list_listeners(port: int) -> set[str]:
    """Return the local addresses that take connections on a port, IPv4 and IPv6."""
    found = set()
    for file, family in ((Path("/proc/net/tcp"), socket.AF_INET), (Path("/proc/net/tcp6"), socket.AF_INET6)):
        for line in file.read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, _, number = local.partition(":")
            if int(number, 16) == port and state == "0A":
                words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
                found.add(socket.inet_ntop(family, b"".join(words)))
    return found


def test_d22_page_is_current_while_calls_wait(worker: Worker, server: LlmServer) -> None:
    """The seed's gauges changed only when a task was completed: no sample of seven queued tasks, and tick 0."""
    worker.run("analyst", 3)
    server.hold()
    order = worker.order("crawler", 8, at_once=8)
    server.wait_for(in_progress=1, timeout=PATIENCE)
    worker.program.until(
        lambda: _read_page(worker).sum_by(catalogue.REQUESTS_WAITING, key.AGENT).get(("crawler",)) == 7
    )
    page = _read_page(worker)
    assert page.sum_by(catalogue.REQUESTS_ACTIVE) == {(): 1}
    assert page.sum_by(catalogue.TICKS) == {(): 3}
    assert page.sum_by(catalogue.QUEUE_WEIGHT, key.AGENT)["crawler",] > 0
    server.release()
    assert worker.until_done(order) == {"ok": 8}


def test_d22_failures_are_counted_apart(worker: Worker, server: LlmServer) -> None:
    """The seed counted completed tasks as failures, and no violation."""
    worker.run("analyst", 3)
    assert worker.run("broke", 2) == {"BudgetExceededError": 2}
    server.throttle(times=1, model="gpt-4.1")
    assert worker.run("analyst", 1) == {"RateLimitError": 1}
    page = _read_page(worker)
    assert page.sum_by(catalogue.REQUESTS, key.AGENT, key.OUTCOME) == {
        ("analyst", "granted"): 4,
        ("broke", "budget"): 2,
        **{point: 0 for point, value in page.sum_by(catalogue.REQUESTS, key.AGENT, key.OUTCOME).items() if not value},
    }
    assert page.sum_by(catalogue.BUDGET_DECISIONS, key.BUDGET_KEY, key.BUDGET_ACTION)["broke", "reject"] == 2
    throttles = page.sum_by(catalogue.THROTTLES, key.ERROR_TYPE, key.THROTTLE_KIND)
    assert {point: value for point, value in throttles.items() if value} == {("429", "load"): 1}


def test_d22_page_is_local_documented_and_ends_with_the_process(worker: Worker) -> None:
    """The seed's page was open to the network, had other names than its docs, and went on after stop()."""
    worker.run("analyst", 1)
    page = _read_page(worker)
    names = {re.sub(r"_(bucket|count|sum)$", "", name) for name in page.series}
    assert len(names) > 20
    assert {name for name in names if f"`{name}`" not in DOCUMENTED} == set()
    assert _list_listeners(worker.port) <= {"127.0.0.1", "::1"}
    assert _list_listeners(worker.port)
    worker.end()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", worker.port), PATIENCE)
