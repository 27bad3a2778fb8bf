"""Programs in processes of their own, launched with nothing of ours in their code."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Self

from patience import PATIENCE
from sdk_server import KEY, LlmServer

_TERMINATION = 5.0

NOWHERE = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}


def script(name: str) -> Path:
    """Return a command of the environment that runs the tests."""
    return Path(sys.executable).with_name(name)


def environ(server: LlmServer) -> dict[str, str]:
    """Return an environment whose SDKs talk to the server, with no setting but that no telemetry leaves."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "LOCO_"))}
    return {
        **inherited,
        **NOWHERE,
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": server.url("openai"),
        "ANTHROPIC_API_KEY": KEY,
        "ANTHROPIC_BASE_URL": server.url("anthropic"),
    }


class Running:
    """A command that is under way, with all processes that it starts; ended on leaving.

    Args:
        command: its first word is a path.
        folder: where it runs, and where its output is kept.
        environ: all of its environment; this process's by default.

    """

    def __init__(self, command: Sequence[str | Path], folder: Path, environ: Mapping[str, str] | None = None) -> None:
        name = Path(command[0]).name
        self._output, self._errors = folder / f"{name}.stdout", folder / f"{name}.stderr"
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                env=environ,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=errors,
                bufsize=0,
                start_new_session=True,
            )

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n".encode())

    def lines(self) -> list[str]:
        """Return the whole lines that it has written so far to its standard output."""
        return self._output.read_text().rpartition("\n")[0].splitlines()

    def errors(self) -> str:
        """Return what it has written so far to its standard error."""
        return self._errors.read_text(errors="replace")

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds; the program must run on meanwhile."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain: {self.lines()[-20:]} {self.errors()}"
            try:
                code = self.process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
            assert condition(), f"ended with {code}: {self.errors()}"

    def ends_well(self) -> None:
        """Wait until it has ended by itself."""
        assert self.process.wait(PATIENCE) == 0, self.errors()

    def stop(self) -> None:
        """End it, by force where asking does not help."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(_TERMINATION)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        assert self.process.stdin
        self.process.stdin.close()


def launched(source: str, folder: Path, environ: Mapping[str, str]) -> Running:
    """Start Python source under `opentelemetry-instrument`."""
    path = folder / "program.py"
    path.write_text(dedent(source))
    return Running([script("opentelemetry-instrument"), sys.executable, path], folder, environ)
