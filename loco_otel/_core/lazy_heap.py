"""A heap whose entries may be struck out anywhere, at the cost of a push."""

from heapq import heapify, heappop, heappush
from typing import Any, TypeAlias

Entry: TypeAlias = list[Any]
"""`[key..., serial, item]`: the serial number keeps items, and the None of a struck one, from being compared."""

_COMPACTION_SLACK = 8


class LazyHeap:
    """Smallest entry first; `strike` marks an entry, and `first` drops the marked ones it meets.

    Never holds more struck entries than live ones plus a constant, so the memory is O(live).
    """

    __slots__ = ("_heap", "_removed", "_serial")

    def __init__(self) -> None:
        self._heap: list[Entry] = []
        self._serial = 0
        self._removed = 0

    def __len__(self) -> int:
        return len(self._heap) - self._removed

    def push_entry(self, *key: Any, item: object) -> Entry:
        """Add an item; of equal keys the one that came first goes first. O(log n)."""
        self._serial += 1
        entry = [*key, self._serial, item]
        heappush(self._heap, entry)
        return entry

    def pop_entry(self) -> Entry | None:
        """Take out and return the smallest live entry, or None. O(log n) amortised."""
        entry = self.peek_entry()
        if entry is not None:
            heappop(self._heap)
        return entry

    def remove_entry(self, entry: Entry) -> None:
        """Take out an entry that was pushed and not struck since. O(1) amortised."""
        entry[-1] = None
        self._removed += 1
        if self._removed > len(self._heap) // 2 + _COMPACTION_SLACK:
            self._heap = [kept for kept in self._heap if kept[-1] is not None]
            heapify(self._heap)
            self._removed = 0

    def peek_entry(self) -> Entry | None:
        """Return the smallest live entry, or None. O(log n) amortised."""
        heap = self._heap
        while heap:
            entry = heap[0]
            if entry[-1] is not None:
                return entry
            heappop(heap)
            self._removed -= 1
        return None
