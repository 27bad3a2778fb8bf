"""One connection to the server: any thread writes commands, one thread reads the replies."""

import time
from collections.abc import Callable
from typing import Any

from loco_otel._config.engine_rules import EngineAddress
from loco_otel._engine.redis.address import open_connection
from loco_otel._engine.redis.resp import MISSING, ReplyBuffer, ServerError, pack_command

_RECEIVED_BYTES = 65536


class Connection:
    """A connection that is open from its creation.

    Args:
        address: of the engine.
        timeout: seconds for each step of opening it, and for a write.
        at: the node of a cluster, if it is not that of the address.

    Raises:
        Exception: the server cannot be reached, or refuses the login.

    """

    def __init__(self, address: EngineAddress, timeout: float, at: tuple[str, int] | None) -> None:
        self._timeout = timeout
        self._opened = open_connection(address, timeout, at)
        self.socket: Any = self._opened._sock
        self._buffer = ReplyBuffer()
        self._count_pending: Callable[[], int] | None = getattr(self.socket, "pending", None)
        """Bytes that TLS has decrypted and that were not read yet."""
        self._is_blocking = True

    def set_blocking(self, is_blocking: bool) -> None:  # noqa: FBT001 - as of a socket
        """Wait within `receive` for at most the timeout, as at first; or not at all, for callers that wait before it.

        Python asks the system before each read and write with a timeout whether it would wait. A TLS connection waits
        in any case, as it may have to read more for what is there.
        """
        if self._count_pending is None:
            self.socket.settimeout(self._timeout if is_blocking else 0.0)
            self._is_blocking = is_blocking

    def send(self, command: bytes) -> None:
        """Write a packed command; its reply is read later. One thread at a time.

        Raises:
            OSError: it was not written within the timeout, or only in part.

        """
        if self._is_blocking:
            self.socket.sendall(command)
            return
        try:
            sent = self.socket.send(command)
        except BlockingIOError:
            sent = 0
        if sent < len(command):  # the system's buffer is full
            self.set_blocking(True)
            try:
                self.socket.sendall(command[sent:])
            finally:
                self.set_blocking(False)

    def send_command(self, *arguments: str | int) -> None:
        """Write a command; its reply is read later."""
        self.send(pack_command(*arguments))

    def receive(self) -> None:
        """Buffer what the socket has; to be called when it is readable.

        Raises:
            ConnectionError: the server has closed the connection.

        """
        try:
            data = self.socket.recv(_RECEIVED_BYTES)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionError("the server closed the connection")
        self._buffer.add_data(data)
        while self._count_pending is not None and self._count_pending():
            self._buffer.add_data(self.socket.recv(_RECEIVED_BYTES))

    def take_reply(self) -> Any:
        """Return a reply that was received, or `MISSING`.

        Raises:
            ServerError: the reply is an error.

        """
        reply = self._buffer.take_reply()
        if isinstance(reply, ServerError):
            raise reply
        return reply

    def call(self, *arguments: str | int) -> Any:
        """Send a command and return its reply. Not while another reply is outstanding.

        Raises:
            TimeoutError: the reply took longer than the timeout.

        """
        return self.call_packed(pack_command(*arguments))

    def call_packed(self, command: bytes) -> Any:
        """Do what `call` does with a packed command."""
        self.send(command)
        give_up = time.monotonic() + self._timeout
        while (reply := self.take_reply()) is MISSING:
            if time.monotonic() > give_up:
                raise TimeoutError("the server did not reply")
            self.receive()
        return reply

    def close(self) -> None:
        """Close the socket, if it is open."""
        self._opened.disconnect()
