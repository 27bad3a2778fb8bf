"""A connection whose callers wait before they read: what it writes while the system's buffer is full."""

import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from patience import PATIENCE

from loco_otel._config.engine_rules import EngineAddress
from loco_otel._engine.redis import connection as module
from loco_otel._engine.redis.connection import Connection
from loco_otel._engine.redis.resp import MISSING

MUCH = b"x" * 8_000_000


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    with here, there:
        yield here, there


def open_connection(monkeypatch: pytest.MonkeyPatch, end: socket.socket, timeout: float) -> Connection:
    end.settimeout(timeout)
    monkeypatch.setattr(module, "open_connection", lambda *_: SimpleNamespace(_sock=end))
    connection = Connection(EngineAddress.parse("redis://localhost"), timeout, None)
    connection.set_blocking(False)
    return connection


def test_send_writes_more_than_the_buffer_holds(
    monkeypatch: pytest.MonkeyPatch, sockets: tuple[socket.socket, socket.socket]
) -> None:
    here, there = sockets
    connection = open_connection(monkeypatch, here, PATIENCE)
    received = bytearray()

    def read_all() -> None:
        while len(received) < len(MUCH):
            received.extend(there.recv(1 << 16))

    reader = threading.Thread(target=read_all, daemon=True)
    reader.start()
    connection.send(MUCH)
    reader.join(PATIENCE)
    assert received == MUCH
    assert here.gettimeout() == 0.0


def test_send_raises_if_the_peer_reads_nothing(
    monkeypatch: pytest.MonkeyPatch, sockets: tuple[socket.socket, socket.socket]
) -> None:
    connection = open_connection(monkeypatch, sockets[0], 0.01)
    with pytest.raises(TimeoutError):
        connection.send(MUCH)


def test_receive_without_data_buffers_nothing(
    monkeypatch: pytest.MonkeyPatch, sockets: tuple[socket.socket, socket.socket]
) -> None:
    here, there = sockets
    connection = open_connection(monkeypatch, here, PATIENCE)
    connection.receive()
    assert connection.take_reply() is MISSING
    there.sendall(b"+OK\r\n")
    connection.receive()
    assert connection.take_reply() == "OK"
