"""Streams, which the SDK returns as generators of lines, and whose connections it closes with the client only."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

from loco_otel.patching import Call, stream_proxy

_MARK = "data: [DONE]"
"""The last line, after which the SDK stops to read."""
_closing: set["asyncio.Future[None]"] = set()
"""Keeps alive the tasks that close connections."""


def follow_answer(call: Call, answer: Any) -> Any:
    """End a call whose answer is whole; of a stream, return what the SDK reads in its place."""
    if isinstance(answer, bytes):
        call.record_answer(answer)
        call.finish_call()
        return None
    lines = _end_async_at_mark(answer) if hasattr(answer, "__aiter__") else _end_at_mark(answer)
    return stream_proxy.follow_stream(call, lines, _find_close(answer))


def _end_at_mark(lines: Iterator[str]) -> Iterator[str]:
    """Yield the lines before the mark, so that the end of the stream is seen."""
    for line in lines:
        if line.startswith(_MARK):
            return
        yield line


async def _end_async_at_mark(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    async for line in lines:
        if line.startswith(_MARK):
            return
        yield line


def _find_close(lines: Any) -> Callable[[], object]:
    """Return what closes the response that a generator reads, which has not begun: it is one of its arguments."""
    frame = getattr(lines, "gi_frame", None) or getattr(lines, "ag_frame", None)
    known = frame.f_locals if frame is not None else {}
    response = known.get("response") or known.get("self")
    if hasattr(lines, "ag_frame"):
        return partial(_close_soon, response)
    return response.close if response is not None else lines.close  # type: ignore[no-any-return]


def _close_soon(response: Any) -> None:
    """Close a response in the loop that runs here."""
    if response is not None:
        task = asyncio.ensure_future(response.aclose())
        _closing.add(task)
        task.add_done_callback(_closing.discard)
