"""The reader of usage in the bytes of an event stream, however they are cut into chunks."""

import json
from typing import Any

import pytest

from loco_otel.patching.adapter import UsageMeter
from loco_otel.patching.event_stream import _MAX_EVENT_BYTES, EventStreamReader

EVENTS = [{"text": "fair"}, {"text": "winds"}, {"tokens": 7}]
BODY = b"".join(b"event: e\ndata: %s\n\n" % json.dumps(event).encode() for event in EVENTS) + b"data: [DONE]\n\n"


def read(*chunks: bytes) -> list[Any]:
    seen: list[Any] = []
    reader = EventStreamReader(lambda event, _: seen.append(event))
    for chunk in chunks:
        reader(chunk, UsageMeter())
    return seen


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_events_are_found_in_chunks_of_any_size(size: int) -> None:
    assert read(*(BODY[start : start + size] for start in range(0, len(BODY), size))) == EVENTS


def test_carriage_returns_are_no_part_of_events() -> None:
    assert read(BODY.replace(b"\n", b"\r\n")) == EVENTS


def test_event_that_is_too_long_is_skipped() -> None:
    piece = b"x" * (_MAX_EVENT_BYTES // 2 + 1)
    assert read(b'data: {"text": "', piece, piece, piece, b'"}\n\n', BODY) == EVENTS


def test_what_is_no_object_is_skipped() -> None:
    assert read(b"data: [1]\n\ndata: {broken\n\n: comment\n\n", BODY) == EVENTS
