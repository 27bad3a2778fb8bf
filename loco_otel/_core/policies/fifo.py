"""The `fifo` policy: the oldest waiter goes next, whoever it belongs to."""

from loco_otel._core.lazy_heap import Entry, LazyHeap
from loco_otel._core.policies.base import Candidate, Key, UnmeteredPolicy


class FifoPolicy(UnmeteredPolicy):
    """Orders agents by their oldest waiter. O(log n)."""

    name = "fifo"
    alpha = 0.0

    def __init__(self) -> None:
        self._heap = LazyHeap()
        self._entries: dict[Key, Entry] = {}

    def update_candidate(self, key: Key, standing: Candidate) -> None:
        """Let an agent compete, or note its new standing."""
        self.remove_candidate(key)
        self._entries[key] = self._heap.push_entry(standing.head, item=key)

    def remove_candidate(self, key: Key) -> None:
        """Forget an agent."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._heap.remove_entry(entry)

    def clear_candidates(self) -> None:
        """Forget all agents."""
        self._heap = LazyHeap()
        self._entries = {}

    def pick_next(self, tick: int) -> Key:  # noqa: ARG002 - the protocol's
        """Name the agent of the oldest waiter. At least one competes."""
        first = self._heap.peek_entry()
        assert first is not None  # noqa: S101 - invariant: asked only while someone waits
        key: Key = first[-1]
        return key

    def compute_score(self, key: Key, tick: int) -> float:  # noqa: ARG002 - the protocol's
        """There is no score: 0."""
        return 0.0
