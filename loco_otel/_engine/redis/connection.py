"""One connection to the server: any thread writes commands, one thread reads the replies."""

import time
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

    def send_command(self, *arguments: str | int) -> None:
        """Write a command; its reply is read later."""
        self.socket.sendall(pack_command(*arguments))

    def receive(self) -> None:
        """Buffer what the socket has; to be called when it is readable.

        Raises:
            ConnectionError: the server has closed the connection.

        """
        data = self.socket.recv(_RECEIVED_BYTES)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._buffer.add_data(data)
        pending = getattr(self.socket, "pending", None)
        while pending is not None and pending():
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
        self.send_command(*arguments)
        give_up = time.monotonic() + self._timeout
        while (reply := self.take_reply()) is MISSING:
            if time.monotonic() > give_up:
                raise TimeoutError("the server did not reply")
            self.receive()
        return reply

    def close(self) -> None:
        """Close the socket, if it is open."""
        self._opened.disconnect()
