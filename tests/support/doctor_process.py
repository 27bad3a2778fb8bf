"""The doctor as a user runs it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

Doctor = Callable[..., subprocess.CompletedProcess[str]]

NOWHERE = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}


def doctor_in(directory: Path) -> Doctor:
    """Return what runs it in a fresh interpreter, where what is in a folder is found first."""

    def run(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, **NOWHERE, "PYTHONPATH": str(directory), **variables}
        command = [sys.executable, "-W", "error", "-m", "loco_otel.cli", "doctor", *options]
        return subprocess.run(command, check=False, env=environ, capture_output=True, text=True, timeout=300)

    return run
