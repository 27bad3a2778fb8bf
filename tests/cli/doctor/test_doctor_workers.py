"""Among how many processes a program is divided."""

import json
from pathlib import Path

import pytest
from doctor_process import Doctor
from fake_distributions import ALL_SDKS, hide, put

from loco_otel.cli.doctor.workers import detect_workers


@pytest.mark.parametrize(
    ("environ", "processes", "origin"),
    [
        ({}, None, ""),
        ({"WEB_CONCURRENCY": "4"}, 4, "WEB_CONCURRENCY"),
        ({"WEB_CONCURRENCY": "many"}, None, ""),
        ({"GUNICORN_CMD_ARGS": "--preload -w 3"}, 3, "GUNICORN_CMD_ARGS"),
        ({"GUNICORN_CMD_ARGS": "-w3 --bind=:80"}, 3, "GUNICORN_CMD_ARGS"),
        ({"GUNICORN_CMD_ARGS": "--workers=3", "WEB_CONCURRENCY": "4"}, 3, "GUNICORN_CMD_ARGS"),
        ({"GUNICORN_CMD_ARGS": "--workers 3 --workers 5"}, 5, "GUNICORN_CMD_ARGS"),
        ({"GUNICORN_CMD_ARGS": "-w"}, None, ""),
        ({"GUNICORN_CMD_ARGS": "--name 'unclosed -w 3", "WEB_CONCURRENCY": "4"}, 4, "WEB_CONCURRENCY"),
        ({"GUNICORN_CMD_ARGS": "--worker-class gthread"}, None, ""),
    ],
)
def test_worker_count_is_detected(environ: dict[str, str], processes: int | None, origin: str) -> None:
    found = detect_workers(environ, 5)
    assert (found.processes, found.origin) == (processes, origin)
    assert found.calls_at_once == (None if processes is None else 5 * processes)
    assert detect_workers(environ, None).calls_at_once is None


def test_worker_report_is_shown(doctor: Doctor, tmp_path: Path) -> None:
    hide(tmp_path, *ALL_SDKS)
    put(tmp_path, "gunicorn", "25.0")
    done = doctor("--json", LOCO_CAPACITY="3", WEB_CONCURRENCY="4", OTEL_METRICS_EXPORTER="prometheus")
    report = json.loads(done.stdout)
    assert "gunicorn" in report["workers"].pop("servers")
    assert report["workers"] == {"processes": 4, "origin": "WEB_CONCURRENCY", "calls_at_once": 12}
    warnings = " ".join(report["warnings"])
    assert "WEB_CONCURRENCY makes 4 processes, each with limits of its own: together at most 12 calls" in warnings
    assert "one alone can have the Prometheus port" in warnings
