"""The `fifo` policy: the oldest waiter of all agents is granted next."""

from collections.abc import Callable

from loco_otel._core.lazy_heap import Entry, LazyHeap
from loco_otel._core.policies.base import Candidate, Key, UnmeteredPolicy


class FifoPolicy(UnmeteredPolicy):
    """Orders agents by their oldest waiter. O(log n)."""

    name = "fifo"
    alpha = 0.0

    def __init__(self) -> None:
        self._heap = LazyHeap()
        self._entries: dict[Key, Entry] = {}

    def update_candidate(self, key: Key, candidate: Candidate) -> None:
        """Add an agent, or update it."""
        self.remove_candidate(key)
        self._entries[key] = self._heap.push_entry(candidate.head, item=key)

    def remove_candidate(self, key: Key) -> None:
        """Remove an agent."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._heap.remove_entry(entry)

    def clear_candidates(self) -> None:
        """Remove all agents."""
        self._heap = LazyHeap()
        self._entries = {}

    def pick_next(self, tick: int) -> Key:  # noqa: ARG002 - the protocol's
        """Return the agent of the oldest waiter; there must be one."""
        first = self._heap.peek_entry()
        assert first is not None  # noqa: S101 - invariant: asked only while someone waits
        key: Key = first[-1]
        return key

    def compute_score(self, key: Key, tick: int) -> float:  # noqa: ARG002 - the protocol's
        """Return 0, as there is no score."""
        return 0.0

    def create_scorer(self, tick: int) -> Callable[[Key], float]:
        """Return a function that computes scores."""
        return lambda key: self.compute_score(key, tick)
