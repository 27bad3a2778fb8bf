"""Receivers of telemetry that others wrote, each a process on free ports of the loopback interface."""

import http.client
import json
import socket
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from patience import PATIENCE
from sdk_program import Running
from sdk_server import free_port


class OtelTap(Running):
    """Takes OTLP over HTTP, and writes down each span and metric."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        super().__init__([sys.executable, "-m", "oteltap", "--port", str(self.port)], folder)
        self.until(lambda: _listens(self.port))

    def spans(self) -> list[Mapping[str, Any]]:
        return [item for item in self._items() if "traceId" in item]

    def metrics(self) -> list[Mapping[str, Any]]:
        return [item for item in self._items() if "traceId" not in item]

    def _items(self) -> list[Mapping[str, Any]]:
        return [json.loads(line) for line in self.lines() if line.startswith("{")]


class Rotel(Running):
    """A collector: takes OTLP over gRPC and HTTP, and passes on what it understood."""

    def __init__(self, folder: Path, to: int) -> None:
        self.grpc_port, self.http_port = free_port(), free_port()
        package = find_spec("rotel")
        assert package
        assert package.origin
        super().__init__(
            [
                Path(package.origin).with_name("rotel-agent"),
                "start",
                f"--otlp-grpc-endpoint=127.0.0.1:{self.grpc_port}",
                f"--otlp-http-endpoint=127.0.0.1:{self.http_port}",
                "--exporter=otlp",
                f"--otlp-exporter-endpoint=http://127.0.0.1:{to}",
                "--otlp-exporter-protocol=http",
                "--otlp-exporter-compression=none",
                "--batch-timeout=10ms",
                f"--pid-file={folder / 'rotel.pid'}",
                f"--log-file={folder / 'rotel.log'}",
            ],
            folder,
        )
        self.until(lambda: _listens(self.grpc_port) and _listens(self.http_port))


class VictoriaMetrics(Running):
    """A server that scrapes one target, takes OTLP, and gives what OTLP brings the names that Prometheus would."""

    def __init__(self, program: str, folder: Path, target: int) -> None:
        self.port = free_port()
        config = folder / "scrape.json"
        job = {"job_name": "scrape", "scrape_interval": "1s", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
        config.write_text(json.dumps({"scrape_configs": [job]}))
        super().__init__(
            [
                program,
                f"-storageDataPath={folder / 'data'}",
                f"-httpListenAddr=127.0.0.1:{self.port}",
                f"-promscrape.config={config}",
                "-opentelemetry.usePrometheusNaming",
                "-search.latencyOffset=0s",
            ],
            folder,
        )
        self.until(lambda: _listens(self.port))

    def ask(self, query: str) -> list[tuple[Mapping[str, str], float]]:
        """Return the labels and the value of each series that a query finds, with all that has come in."""
        assert _get(self.port, "/internal/force_flush")[0] == 200
        status, body = _get(self.port, "/api/v1/query?" + urlencode({"query": query, "nocache": 1}))
        assert status == 200, body
        return [(series["metric"], float(series["value"][1])) for series in json.loads(body)["data"]["result"]]


def page(port: int) -> str:
    """Scrape what the Prometheus exporter of a program shows."""
    status, body = _get(port, "/metrics")
    assert status == 200, body
    return body


def _get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
