"""The `load` policy: the agent with the highest load is granted next.

    L(i) = alpha * Qi / max Q + (1 - alpha) * Di / max D

over the agents that have a waiter, where Qi is the weight that agent i has queued and Di the age of its oldest ticket
in ticks; 0/0 is 0. Ties go to the older, then to the smaller nonce.

The argmax is found exactly without scanning the agents. For a given Q the score grows with the age, also in IEEE
arithmetic, so of all agents with the same Q only the oldest can win: one heap of births per distinct Q, and the
formula is evaluated on their tops. Qs are integers, and distinct positive integers sum up fast: there are at most
sqrt(2M) of them for a total queued weight M in whole weights. Cost per change O(log n), per pick O(distinct Qs).

The rule favours the heavy. With lambda arrivals per release and alpha < 1/(1 + lambda) a wait is at most
(W + lambda*r*A) / (1 - lambda*r) ticks, where r = alpha/(1-alpha), W is the weight that waited at the start plus the
largest excess of arrivals over their rate, and A the greatest age then; above that alpha only the guard bounds it (see
`QueueSet`).
"""

from collections.abc import Callable

from loco_otel._core.lazy_heap import Entry, LazyHeap
from loco_otel._core.policies.base import Candidate, Key, UnmeteredPolicy


class LoadPolicy(UnmeteredPolicy):
    """The policy that the module describes. `draw` returns nonces: numbers in [0, 1), from a seeded generator."""

    name = "load"

    def __init__(self, alpha: float, draw: Callable[[], float]) -> None:
        self.alpha = alpha
        self._draw_nonce = draw
        self._by_weight: dict[int, LazyHeap] = {}
        self._entries: dict[Key, tuple[int, Entry]] = {}

    def update_candidate(self, key: Key, candidate: Candidate) -> None:
        """Add an agent, or update it."""
        known = self._entries.get(key)
        if known is not None:
            if known[0] == candidate.weight and known[1][0] == candidate.birth:
                return
            self.remove_candidate(key)
        heap = self._by_weight.get(candidate.weight)
        if heap is None:
            heap = self._by_weight[candidate.weight] = LazyHeap()
        entry = heap.push_entry(candidate.birth, self._draw_nonce(), item=key)
        self._entries[key] = (candidate.weight, entry)

    def remove_candidate(self, key: Key) -> None:
        """Remove an agent."""
        known = self._entries.pop(key, None)
        if known is None:
            return
        heap = self._by_weight[known[0]]
        heap.remove_entry(known[1])
        if not heap:
            del self._by_weight[known[0]]

    def clear_candidates(self) -> None:
        """Remove all agents."""
        self._by_weight = {}
        self._entries = {}

    def pick_next(self, tick: int) -> Key:
        """Return the agent with the highest L; there must be one."""
        tops = self._find_oldest_by_weight()
        max_weight = max(self._by_weight)
        max_age = tick - min([top[0] for top in tops.values()])
        best: tuple[float, int, float] | None = None
        winner: Key = ""
        for weight, (birth, nonce, _, key) in tops.items():
            rank = (compute_load(self.alpha, weight, max_weight, tick - birth, max_age), -birth, -nonce)
            if best is None or rank > best:
                best, winner = rank, key
        return winner

    def compute_score(self, key: Key, tick: int) -> float:
        """Return L of an agent. O(distinct Qs)."""
        return self.create_scorer(tick)(key)

    def create_scorer(self, tick: int) -> Callable[[Key], float]:
        """Return a function that computes L in constant time, with the maximal Q and D of this moment."""
        entries, alpha = self._entries, self.alpha
        max_weight = max(self._by_weight, default=0)
        max_age = tick - min([top[0] for top in self._find_oldest_by_weight().values()], default=tick)

        def compute_score(key: Key) -> float:
            weight, entry = entries[key]
            return compute_load(alpha, weight, max_weight, tick - entry[0], max_age)

        return compute_score

    def _find_oldest_by_weight(self) -> dict[int, Entry]:
        # A heap is removed with its last agent, so each has a live entry.
        return {weight: top for weight, heap in self._by_weight.items() if (top := heap.peek_entry()) is not None}


def compute_load(alpha: float, weight: float, max_weight: float, age: int, max_age: int) -> float:
    """Return L(i), with 0/0 = 0."""
    return (alpha * weight / max_weight if max_weight else 0.0) + ((1.0 - alpha) * age / max_age if max_age else 0.0)
