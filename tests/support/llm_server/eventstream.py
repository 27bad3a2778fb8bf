"""Messages of `application/vnd.amazon.eventstream`.

A message is: total length, length of the headers, CRC32 of these eight bytes, headers, payload, CRC32 of all before it.
A header is: length of the name, name, type 7 (string), length of the value, value. All numbers are big-endian.
"""

import base64
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

CONTENT_TYPE = "application/vnd.amazon.eventstream"

_STRING = 7
_PRELUDE = 12
_CHECKSUM = 4


def encode_event(name: str, payload: Any) -> bytes:
    """Return an event with a JSON payload."""
    headers = {":event-type": name, ":content-type": "application/json", ":message-type": "event"}
    return _encode(headers, json.dumps(payload).encode())


def encode_exception(name: str, payload: Any) -> bytes:
    """Return an exception, which ends the stream."""
    headers = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
    return _encode(headers, json.dumps(payload).encode())


def encode_chunk(body: Any) -> bytes:
    """Return the event by which InvokeModelWithResponseStream sends a part of a model's own stream."""
    return encode_event("chunk", {"bytes": base64.b64encode(json.dumps(body).encode()).decode()})


def _encode(headers: Mapping[str, str], payload: bytes) -> bytes:
    head = b"".join(_encode_header(name, value) for name, value in headers.items())
    prelude = struct.pack(">II", _PRELUDE + len(head) + len(payload) + _CHECKSUM, len(head))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + head + payload
    return message + struct.pack(">I", zlib.crc32(message))


def _encode_header(name: str, value: str) -> bytes:
    text = value.encode()
    return struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", _STRING, len(text)) + text
