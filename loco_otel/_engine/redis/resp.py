"""The wire format of Redis, version 2, as far as the engine's commands need it.

redis-py opens and authenticates connections. Its parser is not used afterwards: here any thread writes and one thread
reads, and that thread must find out whether a reply is buffered, without a change of the socket's timeout.
"""

import json
from typing import Any

MISSING = object()
"""No complete reply is buffered."""


class ServerError(Exception):
    """An error that the server replied. `kind` is its first word, such as NOSCRIPT."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.kind = message.partition(" ")[0]

    @property
    def moved_to(self) -> tuple[str, int] | None:
        """Host and port of the node of a cluster that has the keys, if the error says so."""
        if self.kind != "MOVED":
            return None
        host, _, port = str(self).rpartition(" ")[2].rpartition(":")
        return host, int(port)


def format_json(value: Any) -> str:
    r"""Return a value as JSON that a script can decode: surrogates without their pair, which it refuses, are replaced.

    Example:
        >>> format_json(["a\ud800"])
        '["a?"]'

    """
    return json.dumps(value, ensure_ascii=False).encode(errors="replace").decode()


def pack_command(*arguments: str | int) -> bytes:
    r"""Return a command as bytes.

    Example:
        >>> pack_command("PING")
        b'*1\r\n$4\r\nPING\r\n'

    """
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        data = str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


class ReplyBuffer:
    r"""Bytes that were received, from which complete replies are taken.

    Example:
        >>> buffer = ReplyBuffer()
        >>> buffer.add_data(b"$2\r\nhi\r\n:4")
        >>> buffer.take_reply(), buffer.take_reply() is MISSING
        ('hi', True)

    """

    def __init__(self) -> None:
        self._data = bytearray()

    def add_data(self, data: bytes) -> None:
        """Append what was received."""
        self._data += data

    def take_reply(self) -> Any:
        """Return the first reply and remove it: a string, a number, a list, None, or a `ServerError`, not raised.

        `MISSING` if it is not complete.
        """
        reply, end = self._parse(0)
        if reply is not MISSING:
            del self._data[:end]
        return reply

    def _parse(self, start: int) -> tuple[Any, int]:
        line_end = self._data.find(b"\r\n", start)
        if line_end < 0:
            return MISSING, start
        kind, line = chr(self._data[start]), self._data[start + 1 : line_end].decode()
        after = line_end + 2
        match kind:
            case "$":
                return self._parse_string(int(line), after)
            case "*":
                return self._parse_list(int(line), after)
            case "-":
                return ServerError(line), after
            case ":":
                return int(line), after
            case "+":
                return line, after
        raise ServerError(f"PROTOCOL unexpected reply {kind}{line}"[:80])

    def _parse_string(self, length: int, start: int) -> tuple[Any, int]:
        if length < 0:
            return None, start
        end = start + length
        if len(self._data) < end + 2:
            return MISSING, start
        return self._data[start:end].decode(), end + 2

    def _parse_list(self, length: int, start: int) -> tuple[Any, int]:
        if length < 0:
            return None, start
        items = []
        for _ in range(length):
            item, start = self._parse(start)
            if item is MISSING:
                return MISSING, start
            items.append(item)
        return items, start
