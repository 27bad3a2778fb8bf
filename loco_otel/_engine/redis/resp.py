"""The wire format of Redis, version 2, as far as the engine's commands need it.

redis-py opens and authenticates connections. Its parser is not used afterwards: here any thread writes and one thread
reads, and that thread must find out whether a reply is buffered, without a change of the socket's timeout.
"""

import json
from typing import Any

MISSING = object()
"""No complete reply is buffered."""

# Made once: `json.dumps` with an option makes an encoder at each call.
_encode_json = json.JSONEncoder(ensure_ascii=False).encode
_LIST, _ERROR, _NUMBER, _STRING, _STATUS = b"*-:$+"


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
    return encode_json(value).decode()


def encode_json(value: Any) -> bytes:
    """Return what `format_json` returns, as bytes."""
    return _encode_json(value).encode(errors="replace")


def pack_command(*arguments: str | int) -> bytes:
    r"""Return a command as bytes.

    Example:
        >>> pack_command("PING")
        b'*1\r\n$4\r\nPING\r\n'

    """
    return b"*%d\r\n%b" % (len(arguments), pack_arguments(*arguments))


def pack_arguments(*arguments: str | int) -> bytes:
    r"""Return arguments as they follow the number of all arguments of a command.

    Example:
        >>> pack_arguments("PING", 1)
        b'$4\r\nPING\r\n$1\r\n1\r\n'

    """
    packed = b""
    for argument in arguments:
        data = str(argument).encode()
        packed += b"$%d\r\n%b\r\n" % (len(data), data)
    return packed


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
        if not self._data:
            return MISSING
        reply, end = self._parse(0)
        if reply is not MISSING:
            del self._data[:end]
        return reply

    def _parse(self, start: int) -> tuple[Any, int]:
        data = self._data
        line_end = data.find(b"\r\n", start)
        if line_end < 0:
            return MISSING, start
        kind, line, after = data[start], data[start + 1 : line_end], line_end + 2
        if kind == _STRING:
            end = after + int(line)
            if end < after:
                return None, after
            return (data[after:end].decode(), end + 2) if len(data) >= end + 2 else (MISSING, start)
        if kind == _NUMBER:
            return int(line), after
        if kind == _LIST:
            return self._parse_list(int(line), after)
        if kind in {_ERROR, _STATUS}:
            text = line.decode()
            return ServerError(text) if kind == _ERROR else text, after
        raise ServerError(f"PROTOCOL unexpected reply {chr(kind)}{line.decode()}"[:80])

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
