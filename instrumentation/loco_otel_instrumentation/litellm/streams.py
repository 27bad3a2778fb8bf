"""LiteLLM's streams: objects that are their own iterators, and that keep the usage which the program does not get.

LiteLLM removes the usage from the chunks that it yields, unless the program asks for it, and keeps all chunks as they
came. It does not close every connection when the program leaves a stream.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

from loco_otel.patching import Call, UsageMeter, as_mapping, get_field, stream_proxy
from loco_otel_instrumentation.litellm.cache import is_from_cache, is_stream

_INNER_NAMES = ("completion_stream", "response_iterator", "streaming_response", "_response", "response")
"""Attributes of a stream, and of what is in it, that lead to its connection."""
_MAX_DEPTH = 4


def follow_answer(call: Call, answer: Any) -> Any:
    """End a call whose answer is whole, or from a cache; else return what the program reads in place of a stream."""
    return _follow(call, answer, ("close",))


def follow_async_answer(call: Call, answer: Any) -> Any:
    """Do as `follow_answer`, for an answer of an async function: its stream is read in its event loop."""
    return _follow(call, answer, ("aclose", "close"))


def _follow(call: Call, answer: Any, closing_methods: tuple[str, ...]) -> Any:
    if not is_stream(answer) or is_from_cache(answer):
        call.record_answer(answer)
        call.finish_call()
        return None
    connection = _Connection(tuple(_iterate_closes(answer, closing_methods, _MAX_DEPTH)))
    return stream_proxy.follow_iterator(call, answer, connection.close, _KeptUsageReader(call, answer).extend)


class _KeptUsageReader:
    """Reads each chunk that the program gets, and the usage of the chunks that LiteLLM keeps."""

    __slots__ = ("_kept", "_read_chunk", "_read_usage", "_seen")

    def __init__(self, call: Call, stream: Any) -> None:
        kept = getattr(stream, "chunks", None)
        if kept is None:  # a stream of a text completion is around one of a completion
            kept = getattr(getattr(stream, "completion_stream", None), "chunks", None)
        self._kept: list[Any] = kept if isinstance(kept, list) else []
        self._read_usage = call.adapter.read_usage
        self._seen = 0

    def extend(self, read_chunk: stream_proxy.ChunkReader) -> stream_proxy.ChunkReader:
        """Return this reader, for the chunks that another reads."""
        self._read_chunk = read_chunk
        return self

    def __call__(self, chunk: Any, meter: UsageMeter) -> None:
        self._read_chunk(chunk, meter)
        kept = self._kept
        while self._seen < len(kept):
            one = kept[self._seen]
            self._seen += 1
            if get_field(one, "usage") is not None:
                self._read_usage(one, meter)
            elif meter.output_tokens is not None and _has_text(one):
                meter.output_tokens = None  # Anthropic's first figure, which is replaced by that of the end


def _has_text(chunk: Any) -> bool:
    deltas = [get_field(choice, "delta") for choice in get_field(chunk, "choices") or ()]
    return any(get_field(delta, "content") or get_field(delta, "reasoning_content") for delta in deltas)


class _Connection:
    """What a stream reads from, by the methods that close it. It does not refer to the stream."""

    __slots__ = ("_closes",)

    def __init__(self, closes: tuple[Callable[[], Any], ...]) -> None:
        self._closes = closes

    def close(self) -> Awaitable[None] | None:
        """Close it; return a coroutine if that has to be awaited."""
        pending = []
        for close in self._closes:
            with suppress(Exception):
                closing = close()
                if inspect.isawaitable(closing):
                    pending.append(closing)
        return _await_each(pending) if pending else None


async def _await_each(pending: list[Awaitable[object]]) -> None:
    for closing in pending:
        with suppress(Exception):
            await closing


def _iterate_closes(owner: Any, closing_methods: tuple[str, ...], depth: int) -> Iterator[Callable[[], Any]]:
    """Yield the methods that close what is within an object, the outermost first."""
    for part in _list_inner(owner) if depth else ():
        if part is not None:
            yield from [method for each in closing_methods if (method := getattr(part, each, None)) is not None][:1]
            yield from _iterate_closes(part, closing_methods, depth - 1)


def _list_inner(owner: Any) -> tuple[Any, ...]:
    """Return what an object reads from."""
    frame = getattr(owner, "ag_frame", None) or getattr(owner, "gi_frame", None)
    if frame is not None:
        # `response.aiter_lines()`: to close the generator closes the response only later.
        return (frame.f_locals.get("self"),)
    known = as_mapping(owner)
    return tuple([known.get(name) for name in _INNER_NAMES])
