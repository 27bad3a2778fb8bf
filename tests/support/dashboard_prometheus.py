"""A Prometheus server process: scrapes targets, or serves a history that a test has made."""

import http.client
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml
from patience import PATIENCE
from sdk_program import Running
from sdk_server import free_port

Labels = Mapping[str, str]


class Prometheus(Running):
    """A server on a free port of the loopback interface.

    Args:
        folder: where it keeps its data, in `data`, and its configuration.
        targets: ports that it scrapes each second, by job.
        rules: files of rules.
        alertmanager: the port to which it sends alerts.
        program: the name of its program on the path.

    """

    def __init__(
        self,
        folder: Path,
        targets: Mapping[str, Sequence[int]] | None = None,
        *,
        rules: Sequence[Path] = (),
        alertmanager: int | None = None,
        program: str = "prometheus",
    ) -> None:
        self.port = free_port()
        jobs = [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]}
            for job, ports in (targets or {}).items()
        ]
        config: dict[str, Any] = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(file) for file in rules],
            "scrape_configs": jobs,
        }
        if alertmanager is not None:
            target = {"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}
            config["alerting"] = {"alertmanagers": [target]}
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        super().__init__(
            [
                program,
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'data'}",
                "--storage.tsdb.retention.time=10y",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            folder,
        )
        self.until(self._is_ready)

    def query(self, expr: str, at: float | None = None) -> list[tuple[Labels, float]]:
        """Return the labels and the value of each series, NaN left out."""
        found = self._ask("query", {"query": expr, **({} if at is None else {"time": at})})
        pairs = [(it["metric"], float(it["value"][1])) for it in found["result"]]
        return [(labels, value) for labels, value in pairs if value == value]  # noqa: PLR0124 - NaN equals nothing

    def query_range(self, expr: str, start: float, end: float, step: float) -> list[tuple[Labels, list[float]]]:
        """Return the labels and the values of each series that has any but NaN."""
        found = self._ask("query_range", {"query": expr, "start": start, "end": end, "step": step})
        series = [(it["metric"], [float(value) for _, value in it["values"]]) for it in found["result"]]
        return [(labels, values) for labels, values in series if any(value == value for value in values)]  # noqa: PLR0124

    def list_label_values(self, label: str, selector: str, start: float, end: float) -> list[str]:
        """Return the values of a label over the series of a selector, as Grafana's `label_values()` does."""
        return list(self._ask(f"label/{label}/values", {"match[]": selector, "start": start, "end": end}))

    def _ask(self, path: str, parameters: Mapping[str, object]) -> Any:
        status, body = self._get(f"/api/v1/{path}?{urlencode(parameters)}")
        assert status == 200, body
        return json.loads(body)["data"]

    def _is_ready(self) -> bool:
        try:
            return self._get("/-/ready")[0] == 200
        except ConnectionError:
            return False

    def _get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


def run_promtool(*arguments: str | Path) -> str:
    """Return the output of promtool, which must succeed."""
    done = subprocess.run(["promtool", *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
