"""One run of the workload for all questions."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from llm_server import LlmServer
from prometheus_server import PROGRAMS, Prometheus
from sdk_collector import Collector
from sdk_server import free_port
from workload_run import Run, work


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("workload")
    ports = {name: free_port() for name in ("first", "second", "restarted", "released", "inactive")}
    with LlmServer() as server, Collector() as collector, ExitStack() as stack:
        servers = {}
        for version in PROGRAMS:
            (data := folder / f"prometheus-{version}").mkdir()
            servers[version] = stack.enter_context(Prometheus(version, data, ports.values()))
        run = Run(server, collector, servers, folder / "ledger.db", folder, ports, stack)
        work(run)
        yield run
