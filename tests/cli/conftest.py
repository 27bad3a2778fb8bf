"""The doctor, and an environment without variables of servers with many processes."""

from pathlib import Path

import pytest
from doctor_process import Doctor, doctor_in


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Run the doctor in a fresh interpreter, where what a test puts into `tmp_path` is found first."""
    for name in ("WEB_CONCURRENCY", "GUNICORN_CMD_ARGS", "ANTHROPIC_OPEN_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    return doctor_in(tmp_path)
