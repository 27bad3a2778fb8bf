"""A server of a test's own, which it may kill, restart and empty.

The environment variable REDIS_SERVER names its program, as `valkey-server`; without one it is `redis-server`.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from patience import PATIENCE

PROGRAM = os.environ.get("REDIS_SERVER", "redis-server")


class RedisServer:
    """A server on a free port of this machine, without persistence unless `aof` is set.

    Args:
        folder: where it stores what it persists.
        aof: whether it writes an append-only file.
        options: further arguments of the program.

    """

    def __init__(self, folder: Path, *, aof: bool = False, options: Sequence[str] = ()) -> None:
        found = shutil.which(PROGRAM)
        assert found is not None, f"the tests need {PROGRAM}: apt-get install {PROGRAM}"
        self._program = found
        self._folder = folder
        self._aof = aof
        self._options = options
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.port: int = taken.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        self._process = subprocess.Popen(
            [
                self._program,
                *self._options,
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""),
                *("--appendonly", "yes" if self._aof else "no", "--appendfsync", "everysec"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                if self.call("PING") == b"+PONG\r\n":
                    return
            except OSError:
                assert self._process.poll() is None, f"{PROGRAM} did not start"
            assert time.monotonic() < give_up, f"{PROGRAM} does not answer"
            time.sleep(0.01)

    def call(self, *words: str) -> bytes:
        """Send a command, and return the start of its raw reply."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            parts = [f"*{len(words)}\r\n", *(f"${len(word.encode())}\r\n{word}\r\n" for word in words)]
            connection.sendall("".join(parts).encode())
            return connection.recv(65536)

    def kill(self) -> None:
        """End the server as kill -9 does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Stop the server without closing its connections."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue a stopped server."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End the server, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self.kill()
