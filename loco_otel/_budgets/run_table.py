"""The runs whose seconds and repeated tool calls are limited, while they make calls."""

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from loco_otel import _fork

_MAX_TOOL_CALLS = 256
"""The distinct tool calls of a run that are counted; those that occurred longest ago are forgotten first."""
_MAX_MARKERS = 64
"""The occurrences of a tool call that are recognized in a request that is sent again."""
_DIGEST_BYTES = 16


class ToolCall(NamedTuple):
    """A tool call that a model asked for, as the next request reports it.

    Example:
        >>> ToolCall('search', '{"q": "tides"}', 'call_1').name
        'search'

    """

    name: str
    arguments: object
    """JSON, or a text that should be."""
    marker: object = None
    """Equal in a request that is sent again; None if that cannot be detected."""


class Repeats(NamedTuple):
    """How often a tool call had occurred in its run before a request, and has occurred with it."""

    name: str
    before: int
    times: int


class _Occurrences:
    """How often one tool call has occurred, and in which turns."""

    __slots__ = ("count", "markers")

    def __init__(self) -> None:
        self.count = 0
        self.markers: dict[bytes, None] = {}
        """Of the last ones, by hash."""

    def add(self, marker: bytes | None) -> None:
        """Count an occurrence. No-op if it is of a request that was sent before."""
        if marker is not None:
            if marker in self.markers:
                return
            self.markers[marker] = None
            if len(self.markers) > _MAX_MARKERS:
                del self.markers[next(iter(self.markers))]
        self.count += 1


class _RunRecord:
    __slots__ = ("called_at", "occurrences", "started_at")

    def __init__(self, now: float) -> None:
        self.started_at = now
        self.called_at = now
        self.occurrences: OrderedDict[bytes, _Occurrences] = OrderedDict()
        """Of each tool call, by hash; that which occurred last is last."""


class RunTable:
    """The first call of each run, and its tool calls by hash. Thread-safe.

    The hash has a key that exists in this process alone. A run that has begun no call for `idle` seconds is forgotten:
    each call forgets those that have become silent, in amortized constant time.

    Args:
        idle: seconds.

    """

    def __init__(self, idle: float) -> None:
        self.idle = idle
        self._runs: OrderedDict[str, _RunRecord] = OrderedDict()
        """By the time of the last call."""
        self._lock = _fork.ForkSafeLock()
        self._hash_key = os.urandom(_DIGEST_BYTES)

    def __len__(self) -> int:
        return len(self._runs)

    def record_call(self, run: str, now: float) -> float:
        """Record a call of a run, and return the seconds since its first one."""
        with self._lock:
            return now - self._touch_run(run, now).started_at

    def count_tool_calls(self, run: str, calls: Iterable[ToolCall], now: float) -> tuple[Repeats, ...]:
        """Count the tool calls of a request of a run, and return how often each of them has occurred."""
        found: dict[bytes, Repeats] = {}
        with self._lock:
            known = self._touch_run(run, now).occurrences
            for call in calls:
                digest = self._compute_digest(call)
                occurrences = known.setdefault(digest, _Occurrences())
                known.move_to_end(digest)
                before = found[digest].before if digest in found else occurrences.count
                occurrences.add(None if call.marker is None else self._hash_text(repr(call.marker)))
                found[digest] = Repeats(call.name, before, occurrences.count)
            while len(known) > _MAX_TOOL_CALLS:
                known.popitem(last=False)
        return tuple(found.values())

    def _touch_run(self, run: str, now: float) -> _RunRecord:
        runs = self._runs
        while runs:
            oldest = next(iter(runs))
            if now - runs[oldest].called_at < self.idle:
                break
            del runs[oldest]
        found = runs.get(run)
        if found is None:
            found = runs[run] = _RunRecord(now)
        else:
            found.called_at = now
            runs.move_to_end(run)
        return found

    def _compute_digest(self, call: ToolCall) -> bytes:
        arguments = call.arguments
        if isinstance(arguments, str):
            with suppress(ValueError, RecursionError):  # counted as the text that it is
                arguments = json.loads(arguments)
        try:
            text = json.dumps((call.name, arguments), sort_keys=True, default=repr)
        except (TypeError, ValueError, RecursionError):
            text = repr((call.name, arguments))
        return self._hash_text(text)

    def _hash_text(self, text: str) -> bytes:
        return hashlib.blake2b(
            text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES, key=self._hash_key
        ).digest()
