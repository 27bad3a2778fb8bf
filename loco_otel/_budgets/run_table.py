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
    """How often the most frequent of some tool calls has occurred in its run."""

    times: int
    name: str
    is_new: bool
    """Whether it has just occurred, not in a request that was sent again."""


class _RunRecord:
    __slots__ = ("called_at", "counts", "started_at")

    def __init__(self, now: float) -> None:
        self.started_at = now
        self.called_at = now
        self.counts: OrderedDict[bytes, tuple[int, object]] = OrderedDict()
        """How often each tool call has occurred, and the marker of the last one."""


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

    def count_tool_calls(self, run: str, calls: Iterable[ToolCall], now: float) -> Repeats | None:
        """Count tool calls of a run, and return the most frequent of them; None if there are none."""
        most: Repeats | None = None
        with self._lock:
            counts = self._touch_run(run, now).counts
            for call in calls:
                digest = self._compute_digest(call)
                count, marker = counts.get(digest, (0, None))
                is_new = call.marker is None or call.marker != marker
                count += is_new
                counts[digest] = count, call.marker
                counts.move_to_end(digest)
                if most is None or count > most.times:
                    most = Repeats(count, call.name, is_new)
            while len(counts) > _MAX_TOOL_CALLS:
                counts.popitem(last=False)
        return most

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
        return hashlib.blake2b(
            text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES, key=self._hash_key
        ).digest()
