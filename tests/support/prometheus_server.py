"""A real Prometheus that scrapes programs of a test."""

import http.client
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlencode

import pytest
from patience import PATIENCE
from sdk_program import Running
from sdk_server import free_port

Vector = dict[frozenset[tuple[str, str]], float]
"""Values by labels."""

PROGRAMS = {"2.42": "prometheus-2", "3.5": "prometheus-3"}
"""Those that Debian has, by version, as `.ci/run` names them."""

SCRAPE_SECONDS = 1


def find_program(version: str) -> str:
    """Return the program of a version; without one, skip, but fail in CI."""
    name = PROGRAMS[version]
    path = shutil.which(name)
    if path is None:
        message = f"no {name} on the path: `.ci/run` takes it from Debian's archive"
        if os.environ.get("REQUIRE_PROMETHEUS"):
            pytest.fail(message)
        pytest.skip(message)
    return path


class Prometheus(Running):
    """Scrapes targets, each a program with the job `program`, by the port of its page."""

    def __init__(self, version: str, folder: Path, targets: Iterable[int]) -> None:
        self.version = version
        self.port = free_port()
        config = folder / "prometheus.yml"
        job = {
            "job_name": "program",
            "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in targets]}],
        }
        interval = f"{round(SCRAPE_SECONDS * 1000)}ms"
        scrape = {"scrape_interval": interval, "scrape_timeout": interval}
        config.write_text(json.dumps({"global": scrape, "scrape_configs": [job]}))
        super().__init__(
            [
                find_program(version),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--log.level=error",
            ],
            folder,
        )
        self.until(self._is_ready)

    def ask(self, query: str, at: float) -> Vector:
        """Return the answer to an instant query."""
        body = self._get("/api/v1/query?" + urlencode({"query": query, "time": f"{at:.3f}"}))
        assert body["status"] == "success", body
        series = body["data"]["result"]
        assert body["data"]["resultType"] == "vector", body
        return {frozenset(it["metric"].items()): float(it["value"][1]) for it in series}

    def _is_ready(self) -> bool:
        try:
            return self._request("/-/ready")[0] == http.client.OK
        except OSError:
            return False

    def _get(self, path: str) -> Mapping[str, object]:
        _, body = self._request(path)
        answer: Mapping[str, object] = json.loads(body)
        return answer

    def _request(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()
