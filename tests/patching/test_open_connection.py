"""What an abort does to a connection that is read from: it may be that of other calls too."""

import asyncio
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from loco_otel.patching.open_connection import open_response_connection


class Response:
    """One of httpx, over a socket."""

    def __init__(self, end: socket.socket, version: bytes) -> None:
        stream = SimpleNamespace(get_extra_info={"socket": end}.get)
        self.extensions = {"network_stream": stream, "http_version": version}
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True

    async def aclose(self) -> None:
        self.is_closed = True


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    with here, there:
        yield here, there


def carries(sender: Any, receiver: Any) -> bool:
    try:
        sender.sendall(b"chunk")
    except BrokenPipeError:
        return False
    return bool(receiver.recv(5))


@pytest.mark.parametrize(("version", "is_left"), [(b"HTTP/2", True), (b"HTTP/1.1", False)])
def test_only_a_connection_of_one_call_is_shut_down(version: bytes, is_left: bool, ends: Any) -> None:
    here, there = ends
    response = Response(here, version)
    open_response_connection(response).close(is_reading=True)
    assert (carries(here, there), carries(there, here)) == (is_left, is_left)
    assert not response.is_closed


@pytest.mark.parametrize("is_reading", [False, True])
@pytest.mark.parametrize("version", [b"HTTP/2", b"HTTP/1.1"])
def test_async_response_is_closed_unless_it_shares_its_reads(version: bytes, is_reading: bool, ends: Any) -> None:
    async def main() -> bool:
        response = Response(ends[0], version)
        open_response_connection(response).close(is_reading=is_reading)
        for _ in range(3):
            await asyncio.sleep(0)  # for the callback that starts a task, for the task, and for its end
        return response.is_closed

    assert asyncio.run(main()) == (version == b"HTTP/1.1" or not is_reading)
