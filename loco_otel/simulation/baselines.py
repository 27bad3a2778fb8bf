"""Baselines for comparison, beside `fifo`: round robin over agents, and a plain semaphore."""

from collections.abc import Callable

from loco_otel._core.lazy_heap import Entry, LazyHeap
from loco_otel._core.policies.base import Candidate, Key, UnmeteredPolicy

BASELINES = ("round-robin", "semaphore")


class RoundRobinPolicy(UnmeteredPolicy):
    """Grants the agent whose last grant is oldest; agents without a grant come first, in order of arrival."""

    name = "round-robin"
    alpha = 0.0

    def __init__(self) -> None:
        self._turn = 0
        self._last: dict[Key, tuple[int, int]] = {}
        self._heap = LazyHeap()
        self._entries: dict[Key, Entry] = {}

    def update_candidate(self, key: Key, standing: Candidate) -> None:
        """Add an agent, or update its candidate."""
        if key not in self._entries:
            self._entries[key] = self._heap.push_entry(*self._last.get(key, (-1, standing.head[1])), item=key)

    def remove_candidate(self, key: Key) -> None:
        """Remove an agent."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._heap.remove_entry(entry)

    def clear_candidates(self) -> None:
        """Remove all agents."""
        self._heap, self._entries, self._last = LazyHeap(), {}, {}

    def pick_next(self, tick: int) -> Key:  # noqa: ARG002 - the protocol's
        """Return the next agent to grant."""
        first = self._heap.peek_entry()
        assert first is not None  # noqa: S101 - invariant: asked only while someone waits
        key: Key = first[-1]
        self._turn += 1
        self._last[key] = (self._turn, 0)
        self.remove_candidate(key)  # it is added again at the end if it still has a waiter
        return key

    def compute_score(self, key: Key, tick: int) -> float:  # noqa: ARG002 - the protocol's
        """Return 0, as this policy has no score."""
        return 0.0

    def create_scorer(self, tick: int) -> Callable[[Key], float]:
        """Return a function that computes scores."""
        return lambda key: self.compute_score(key, tick)
