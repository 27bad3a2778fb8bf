"""Streams of chat completions, which read bytes until a mark comes, and do not close the connection then.

The type of a stream stays what it is, as programs read it by `next` too: its iterator of bytes is replaced.
"""

import weakref
from typing import Any

from loco_otel.patching import Call, stream_proxy
from loco_otel.patching.event_stream import EventStreamReader
from loco_otel.patching.response_body import AsyncFollowedStream, ResponseBody, iterate_chunks
from loco_otel.patching.stream_proxy import AsyncClosedAfterError

_BYTES = "_bytes_iterator"


def follow_answer(call: Call, answer: Any) -> None:
    """End a call whose answer is whole, or tie its end to the mark, the close or the loss of its stream."""
    if not hasattr(answer, _BYTES):
        call.record_answer(answer)
        call.finish_call()
        return
    body = ResponseBody(call)
    body.chunk_reader = EventStreamReader(call.chunk_reader, call.finish_call)
    _install_close_hooks(answer, body)
    inner = getattr(answer, _BYTES)
    read: Any
    response = answer._response
    if hasattr(type(answer), "__anext__"):
        close = response._internal_response.close  # aiohttp's, which is sync
        read = AsyncFollowedStream(AsyncClosedAfterError(inner, close), body)
    else:
        close = response.close
        read = iterate_chunks(inner, body)
    setattr(answer, _BYTES, read)
    stream_proxy.close_with_body(body, close)
    body.mark_unread()
    call.claim_slot()


def _install_close_hooks(stream: Any, body: ResponseBody) -> None:
    # Nothing on the stream may refer to it: dropped half read, it must be freed at once.
    weak = weakref.ref(stream)
    kind = type(stream)

    def close() -> None:
        try:
            kind.close(weak())
        finally:
            body.handle_close(None)

    async def aclose() -> None:
        try:
            await kind.aclose(weak())
        finally:
            body.handle_close(None)

    if hasattr(kind, "aclose"):
        stream.aclose = aclose
    else:
        stream.close = close
