"""Bodies of server-sent events, or of lines of JSON, that the SDK reads from an HTTP response.

Their usage is found in the bytes.

The slot is released when the response ends; see `response_body`.
"""

import json
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from loco_otel.patching.adapter import UsageMeter
from loco_otel.patching.call import Call
from loco_otel.patching.response_body import AsyncFollowedStream, ResponseBody, follow_answer, iterate_chunks

_MAX_EVENT_BYTES = 1 << 20
"""The longest event, in bytes, that is parsed. Events that contain the usage have a few hundred."""
_FIELD = b"data:"
_MARK = b"[DONE]"
_OBJECT = b"{"
_STREAM_TYPES = ("event-stream", "stream+json", "ndjson")
"""Parts of the media types of events and of lines of JSON."""
_READERS = ("iter_bytes", "aiter_bytes", "iter_raw", "aiter_raw")
"""The methods by which a response is read. Those that return text or lines call the first two, and these the others."""


class EventStreamReader:
    """A chunk reader for bytes. It passes the JSON of each event to a reader of events.

    Args:
        read_event: notes what one event contains; None to note nothing.
        on_end: is called after the mark `[DONE]`, where the reader of the stream does not read to its end.

    """

    __slots__ = ("_is_too_long", "_on_end", "_read_event", "_rest")

    def __init__(
        self, read_event: Callable[[Any, UsageMeter], None] | None, on_end: Callable[[], None] | None = None
    ) -> None:
        self._read_event = read_event
        self._on_end = on_end
        self._rest = bytearray()
        """The beginning of a line whose end has not arrived yet."""
        self._is_too_long = False

    def __call__(self, chunk: bytes, meter: UsageMeter) -> None:
        """Read the lines that end within a chunk."""
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            begun, is_too_long = bytes(self._rest), self._is_too_long
            self._rest.clear()
            self._is_too_long = False
            if not is_too_long:
                self._read_line(begun + line, meter)
        if self._is_too_long or len(self._rest) + len(rest) > _MAX_EVENT_BYTES:
            self._rest.clear()
            self._is_too_long = True
        else:
            self._rest += rest

    def _read_line(self, line: bytes, meter: UsageMeter) -> None:
        if line.startswith(_FIELD):
            line = line[len(_FIELD) :]
        elif not line.startswith(_OBJECT):
            return
        try:
            event = json.loads(line)
        except ValueError:
            if self._on_end is not None and line.strip() == _MARK:
                self._on_end()
            return
        if isinstance(event, dict) and self._read_event is not None:
            self._read_event(event, meter)


def follow_response(call: Call, response: Any) -> None:
    """End a call whose response is complete or an error, or tie its end to that of its stream of events.

    For SDKs whose wrapped method returns an HTTP response, also one of an error.
    """
    if response.is_error:
        try:
            response.raise_for_status()
        except Exception as error:
            call.fail_call(error)
        return
    if _is_stream(response.headers.get("content-type", "")):
        if not response.is_closed:
            follow_event_stream(call, response)
            return
        if call.chunk_reader is not None:
            # The program has read all of the stream at once.
            EventStreamReader(call.chunk_reader)(response.content + b"\n", call.meter)
    follow_answer(call, response)


def _is_stream(media_type: str) -> bool:
    return any(part in media_type for part in _STREAM_TYPES)


def follow_event_stream(call: Call, response: Any) -> None:
    """Tie the end of a call to that of a response, and read the usage while the SDK reads its bytes.

    Args:
        call: whose answer has begun.
        response: of httpx or httpx2, with a stream of events or of lines of JSON.

    """
    body = ResponseBody(call)
    if body.chunk_reader is not None:
        body.chunk_reader = EventStreamReader(body.chunk_reader)
    body.install_close_hooks(response)
    # Nothing on the response may refer to it or to its attributes: dropped half read, it must be freed at once.
    weak = weakref.ref(response)

    def iter_bytes(*args: Any, **kwargs: Any) -> Iterator[bytes]:
        return iterate_chunks(_restore_method(weak(), "iter_bytes")(*args, **kwargs), body)

    def aiter_bytes(*args: Any, **kwargs: Any) -> AsyncIterator[bytes]:
        return AsyncFollowedStream(_restore_method(weak(), "aiter_bytes")(*args, **kwargs), body)

    def iter_raw(*args: Any, **kwargs: Any) -> Iterator[bytes]:
        body.mark_unobserved()
        return _restore_method(weak(), "iter_raw")(*args, **kwargs)  # type: ignore[no-any-return]

    def aiter_raw(*args: Any, **kwargs: Any) -> AsyncIterator[bytes]:
        body.mark_unobserved()
        return _restore_method(weak(), "aiter_raw")(*args, **kwargs)  # type: ignore[no-any-return]

    vars(response).update(zip(_READERS, (iter_bytes, aiter_bytes, iter_raw, aiter_raw), strict=True))
    body.mark_unread()
    call.claim_slot()


def _restore_method(response: Any, name: str) -> Any:
    """Return a response's own method, and remove ours: a body is read once."""
    for reader in _READERS:
        vars(response).pop(reader, None)
    return getattr(response, name)
