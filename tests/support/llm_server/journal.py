"""The requests that the server has received, how many are in progress, and waiting for a change of either."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from .answers import Operation
from .http1 import Request

# Credentials are not recorded.
_HEADERS = (
    "accept", "content-type", "user-agent", "traceparent",
    "anthropic-beta", "anthropic-version", "api-revision", "x-goog-api-client", "x-server-timeout",
    "x-stainless-retry-count", "amz-sdk-request", "amz-sdk-invocation-id",
)  # fmt: skip


@dataclass(eq=False)
class Entry:
    """One request. Times are of the monotonic clock, which all processes of a machine share."""

    id: int
    api: str
    operation: str
    model: str
    streamed: bool
    generates: bool
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Any
    started_at: float
    ended_at: float | None = None
    status: int | None = None
    """None until the response begins, and for a connection that was closed without one."""
    chunks: int = 0
    """Chunks sent; a whole answer is one."""
    is_held: bool = False
    end: str | None = None
    """`complete`, `refused`, `broken` by the script, or `disconnected` by the client; None while in progress."""


@dataclass(eq=False)
class Journal:
    """Records requests. All methods run in the event loop."""

    entries: list[Entry] = field(default_factory=list)
    in_progress: int = 0
    """Requests that a model works on: from the last byte of the request until just before the last byte of the
    response, or the disconnect of the client. A client therefore never sees the end of a response that still counts."""
    peak: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, api: str, operation: Operation, request: Request) -> Entry:
        """Record a request as being in progress."""
        headers = {name: request.headers[name] for name in _HEADERS if name in request.headers}
        entry = Entry(
            id=len(self.entries), api=api, operation=operation.name, model=operation.model,
            streamed=operation.streamed, generates=operation.generates, method=request.method, path=request.path,
            query=request.query, headers=headers, body=request.json(), started_at=time.monotonic(),
        )  # fmt: skip
        self.entries.append(entry)
        if entry.generates:
            self.in_progress += 1
            self.peak = max(self.peak, self.in_progress)
        self.notify()
        return entry

    def finish(self, entry: Entry, end: str) -> None:
        """Record the end of a request. Only the first call for an entry has an effect."""
        if entry.ended_at is not None:
            return
        entry.ended_at = time.monotonic()
        entry.end = end
        if entry.generates and entry in self.entries:
            self.in_progress -= 1
        self.notify()

    def reset(self) -> None:
        """Forget all requests, those in progress included."""
        self.entries = []
        self.in_progress = self.peak = 0
        self.notify()

    def describe(self) -> dict[str, int]:
        """Return the counts that a client can wait for, and the peak."""
        return {
            "received": len(self.entries),
            "finished": sum(entry.ended_at is not None for entry in self.entries),
            "in_progress": self.in_progress,
            "held": sum(entry.is_held and entry.ended_at is None for entry in self.entries),
            "peak": self.peak,
        }

    def list_entries(self) -> list[dict[str, Any]]:
        """Return all entries as JSON."""
        return [asdict(entry) for entry in self.entries]

    def notify(self) -> None:
        """Wake up everything that waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_until(self, is_true: Callable[[dict[str, int]], bool], seconds: float) -> bool:
        """Wait until a condition on the counts holds. Returns False after the given time."""
        try:
            async with asyncio.timeout(seconds):
                while not is_true(self.describe()):
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True
