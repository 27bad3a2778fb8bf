"""Breaks the reference cycles of streams and responses: one that is dropped half read must be freed at once."""

import weakref
from copy import copy
from types import FrameType
from typing import Any


def break_iterator_cycle(stream: Any, iterator: Any) -> Any:
    """Return a stream's iterator, created again if it refers back to the stream.

    OpenAI's streams hold a generator that holds the stream. Dropped half read, both would stay until the garbage
    collector comes by, and so would the slot. A generator that has not begun can as well run on a copy of the stream,
    as those of Anthropic's SDK do. Anything else is left as it is.
    """
    frame = _get_frame(iterator)
    # Before a generator begins, its only local variable is its argument.
    if frame is None or list(dict(frame.f_locals).items()) != [("self", stream)]:
        return iterator
    try:
        twin = copy(stream)
        del twin._iterator
        again = twin.__stream__()
    except Exception:
        return iterator
    other = _get_frame(again)
    return iterator if other is None or other.f_code is not frame.f_code else again


class _ElapsedSetter:
    """Takes the time that a response took, for as long as there is the response."""

    __slots__ = ("_response",)

    def __init__(self, response: Any) -> None:
        self._response = weakref.ref(response)

    def _set_elapsed(self, elapsed: Any) -> None:
        response = self._response()
        if response is not None:
            response.elapsed = elapsed

    elapsed = property(None, _set_elapsed)


def break_response_cycle(response: Any) -> None:
    """Let a response that is dropped be free at once.

    Under httpx, not httpx2, its byte stream refers back to it, only to set `elapsed` when it is closed.
    """
    stream: Any = getattr(response, "stream", None)
    if getattr(stream, "_response", None) is response:
        stream._response = _ElapsedSetter(response)


def _get_frame(iterator: Any) -> FrameType | None:
    """Return the frame of a generator of either colour, None for anything else."""
    frame = getattr(iterator, "gi_frame", None) or getattr(iterator, "ag_frame", None)
    return frame if isinstance(frame, FrameType) else None
