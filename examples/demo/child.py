"""Processes that the demo starts, and surely ends."""

import os
import signal
import socket
import subprocess
import sysconfig
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from errors import DemoError

_GRACE = 3.0
"""Seconds that a process has for its own way to end."""

_OF_THE_USER = ("LOCO_", "OTEL_", "OPENAI_", "ANTHROPIC_", "GOOGLE_", "GEMINI_", "LLMOCK_")


class Child:
    """A process in a group of its own, so that Ctrl-C does not reach it and whatever it starts ends with it.

    Its output goes to a file: nobody has to read it for the process to go on.

    Args:
        command: the program and its arguments.
        environ: all of its environment.
        output: the file, made anew.

    """

    def __init__(self, command: Sequence[str | Path], environ: Mapping[str, str], output: Path) -> None:
        self._output = output
        self._shown = 0
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                command, env=environ, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, process_group=0
            )

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def output(self) -> str:
        """Return all that it has written."""
        return self._output.read_text(errors="replace")

    def new_lines(self) -> list[str]:
        """Return the whole lines that it has written since this was last asked."""
        *lines, _ = self.output().split("\n")
        new, self._shown = lines[self._shown :], len(lines)
        return new

    def stop(self) -> None:
        """End it and all that it started, gently at first. Harmless when it has ended."""
        if self.status is None:
            self._signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE)
        self.kill()

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def environment(**variables: str) -> dict[str, str]:
    """Return the user's environment with these variables, without others that would change what the demo shows."""
    kept = {
        name: value
        for name, value in os.environ.items()
        # A proxy would be asked for the loopback address.
        if not name.startswith(_OF_THE_USER) and not name.lower().endswith("_proxy")
    }
    return {**kept, "PYTHONUNBUFFERED": "1", **variables}


def command(name: str) -> Path:
    """Return the path of a command that came with a package.

    Raises:
        DemoError: this Python has no such command.

    """
    path = Path(sysconfig.get_path("scripts"), name)
    if not path.exists():
        raise DemoError(f"{name} is not installed for this Python: run `make demo`, or pip install 'loco-otel[demo]'")
    return path


def free_port() -> int:
    """Return a port of the loopback interface that nobody uses at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
