"""What the policies are compared with, beside `fifo`: round robin over agents, and a plain semaphore."""

from loco_otel._core.lazy_heap import Entry, LazyHeap
from loco_otel._core.policies.base import Key, Standing, Unmetered

BASELINES = ("round-robin", "semaphore")


class RoundRobinPolicy(Unmetered):
    """Whoever was granted longest ago goes next; those who never were go first, in the order of their coming."""

    name = "round-robin"
    alpha = 0.0

    def __init__(self) -> None:
        self._turn = 0
        self._last: dict[Key, tuple[int, int]] = {}
        self._heap = LazyHeap()
        self._entries: dict[Key, Entry] = {}

    def put(self, key: Key, standing: Standing) -> None:
        """Let an agent compete, or note its new standing."""
        if key not in self._entries:
            self._entries[key] = self._heap.push(*self._last.get(key, (-1, standing.head[1])), item=key)

    def drop(self, key: Key) -> None:
        """Let an agent compete no more."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._heap.strike(entry)

    def clear(self) -> None:
        """Forget all agents."""
        self._heap, self._entries, self._last = LazyHeap(), {}, {}

    def pick(self, tick: int) -> Key:  # noqa: ARG002 - the protocol's
        """Name the agent to be granted next."""
        first = self._heap.first()
        assert first is not None  # noqa: S101 - invariant: asked only while someone waits
        key: Key = first[-1]
        self._turn += 1
        self._last[key] = (self._turn, 0)
        self.drop(key)  # it is put again, at the end, if it still has a waiter
        return key

    def score(self, key: Key, tick: int) -> float:  # noqa: ARG002 - the protocol's
        """There is no score: 0."""
        return 0.0
