"""Bodies that are iterators of the SDK's own, with no HTTP response in sight.

The slot is given back when the iterator ends: read out, closed, broken off or dropped.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any

from loco_otel.patching.call import Call
from loco_otel.patching.response_body import AsyncFollowedStream, ResponseBody, iterate_chunks


def iterate_body(call: Call, inner: Iterator[Any]) -> Iterator[Any]:
    """Yield what a sync iterator does, and end the call with it."""
    body = ResponseBody(call)
    call.claim_slot()
    yield from iterate_chunks(inner, body)


def follow_async_iterator(call: Call, inner: AsyncIterator[Any]) -> "AsyncIteratorBody":
    """Return an iterator to read in place of another, which ends the call when that one ends."""
    body = ResponseBody(call)
    call.claim_slot()
    return AsyncIteratorBody(inner, body)


class AsyncIteratorBody(AsyncFollowedStream):
    """Dropped half read, it gives the slot back at once: by its call, to which nothing else refers."""

    async def aclose(self) -> None:
        """Close the iterator, then end the call."""
        try:
            await self._inner.aclose()  # type: ignore[attr-defined] # a generator
        finally:
            self._body.end_body(None)
