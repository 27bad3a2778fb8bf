"""A heap from which any entry can be removed, at the cost of a push."""

from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, TypeAlias

Entry: TypeAlias = list[Any]
"""`[key..., serial, item]`: the serial number prevents the comparison of items, and of the None of a removed one."""

serials = count()
"""Of all heaps, as heaps share entries."""

_COMPACTION_SLACK = 8


class LazyHeap:
    """Smallest entry first; `remove_entry` marks an entry, and `peek_entry` drops marked ones at the top.

    It never holds more marked entries than live ones plus a constant, so the memory is O(live).
    """

    __slots__ = ("_heap", "_removed")

    def __init__(self) -> None:
        self._heap: list[Entry] = []
        self._removed = 0

    def __len__(self) -> int:
        return len(self._heap) - self._removed

    def push_entry(self, *key: Any, item: object) -> Entry:
        """Add an item; of equal keys the earlier one is smaller. O(log n)."""
        entry = [*key, next(serials), item]
        heappush(self._heap, entry)
        return entry

    def share_entry(self, entry: Entry) -> None:
        """Add an entry that the caller made, perhaps for several heaps, as `push_entry` does. O(log n).

        A list display has no spare room, which is 32 B less for each waiter. An entry of several heaps is removed from
        all before one of them is read.
        """
        heappush(self._heap, entry)

    def pop_entry(self) -> Entry | None:
        """Remove and return the smallest live entry, or None. O(log n) amortised."""
        heap = self._heap
        while heap:
            entry: Entry = heappop(heap)
            if entry[-1] is not None:
                return entry
            self._removed -= 1
        return None

    def remove_entry(self, entry: Entry) -> None:
        """Remove an entry that was pushed and not removed since. O(1) amortised."""
        entry[-1] = None
        self._removed += 1
        if self._removed > len(self._heap) // 2 + _COMPACTION_SLACK:
            self._heap = [kept for kept in self._heap if kept[-1] is not None]
            heapify(self._heap)
            self._removed = 0

    def list_items(self) -> list[Any]:
        """Return the items of all live entries, in no order."""
        return [entry[-1] for entry in self._heap if entry[-1] is not None]

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
