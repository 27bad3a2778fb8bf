"""The `fifo` policy: the oldest waiter goes next, whoever it belongs to."""

from loco_otel._core.lazy_heap import Entry, LazyHeap
from loco_otel._core.policy import Standing


class FifoPolicy:
    """Orders agents by their oldest waiter. O(log n)."""

    name = "fifo"
    alpha = 0.0

    def __init__(self) -> None:
        self._heap = LazyHeap()
        self._entries: dict[str, Entry] = {}

    def put(self, agent: str, standing: Standing) -> None:
        """Let an agent compete, or note its new standing."""
        self.drop(agent)
        self._entries[agent] = self._heap.push(standing.head, item=agent)

    def drop(self, agent: str) -> None:
        """Forget an agent."""
        entry = self._entries.pop(agent, None)
        if entry is not None:
            self._heap.strike(entry)

    def clear(self) -> None:
        """Forget all agents."""
        self._heap = LazyHeap()
        self._entries = {}

    def pick(self, tick: int) -> str:  # noqa: ARG002 - the protocol's
        """Name the agent of the oldest waiter. At least one competes."""
        first = self._heap.first()
        assert first is not None  # noqa: S101 - invariant: asked only while someone waits
        return str(first[-1])

    def score(self, agent: str, tick: int) -> float:  # noqa: ARG002 - the protocol's
        """There is no score: 0."""
        return 0.0
