"""A redis-server of a benchmark's own, and a proxy before it that makes the way longer."""

import asyncio
import multiprocessing
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import NamedTuple

import redis


class Address(NamedTuple):
    """Where a server, or a proxy before it, listens on this machine."""

    port: int

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://127.0.0.1:{self.port}"

    def connect(self) -> redis.Redis:
        """Return a client."""
        return redis.Redis(port=self.port, decode_responses=True)


@contextmanager
def start_server() -> Iterator[Address]:
    """Start a server without persistence, and end it.

    Raises:
        SystemExit: there is no `redis-server` on the path.

    """
    program = shutil.which("redis-server")
    if program is None:
        sys.exit("the benchmark of the shared engine needs redis-server on the PATH")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = Address(taken.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        words = ["--port", str(address.port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        process = subprocess.Popen([program, *words], stdout=subprocess.DEVNULL)
        try:
            _wait_ready(address, process)
            yield address
        finally:
            process.terminate()
            process.wait()


def _wait_ready(address: Address, process: "subprocess.Popen[bytes]") -> None:
    with address.connect() as client:
        while process.poll() is None:
            with suppress(redis.ConnectionError):
                client.ping()
                return
            time.sleep(0.01)
    sys.exit("redis-server did not start")


@contextmanager
def start_proxy(server: Address, seconds: float) -> Iterator[Address]:
    """Start a process that forwards connections, each direction delayed by `seconds`, and end it."""
    spawning = multiprocessing.get_context("spawn")
    mine, its = spawning.Pipe()
    process = spawning.Process(target=_forward, args=(server.port, seconds, its), daemon=True)
    process.start()
    try:
        yield Address(mine.recv())
    finally:
        process.kill()
        process.join()


def _forward(port: int, seconds: float, ready: Connection) -> None:
    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(1 << 16):
            # Not slept: what follows travels at the same time.
            loop.call_later(seconds, writer.write, data)
        loop.call_later(seconds, writer.close)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, server_writer), copy(server_reader, writer))

    async def serve() -> None:
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    # `epoll` waits for whole milliseconds, so each message would delay those that are under way.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(serve())
