"""The `load` policy: the agent with the highest load is granted next.

    L(i) = alpha * Qi / max Q + (1 - alpha) * Di / max D

over the agents that have a waiter, where Qi is the weight that agent i has queued and Di the age of its oldest ticket
in ticks; 0/0 is 0. Ties go to the older, then to the smaller nonce.

The argmax is found exactly without scanning the agents. For a given Q the score grows with the age, also in IEEE
arithmetic, so of all agents with the same Q only the oldest can win: one heap of births per distinct Q. Of these, those
with the greatest Qs and those with the greatest ages are compared in turn, until no other can score as much: the
threshold algorithm (Fagin, Lotem, Naor, 2003), about sqrt(n) of n distinct Qs where weights and ages are independent.
A change costs O(log n), and two moves in sorted arrays.

The rule favours the heavy. With lambda arrivals per release and alpha < 1/(1 + lambda) a wait is at most
(W + lambda*r*A) / (1 - lambda*r) ticks, where r = alpha/(1-alpha), W is the weight that waited at the start plus the
largest excess of arrivals over their rate, and A the greatest age then; above that alpha only the guard bounds it (see
`QueueSet`).
"""

from bisect import bisect_left, insort
from collections.abc import Callable

from loco_otel._core.lazy_heap import Entry, LazyHeap, serials
from loco_otel._core.policies.base import Candidate, Key, UnmeteredPolicy


class LoadPolicy(UnmeteredPolicy):
    """The policy that the module describes. `draw` returns nonces: numbers in [0, 1), from a seeded generator."""

    name = "load"

    def __init__(self, alpha: float, draw: Callable[[], float]) -> None:
        self.alpha = alpha
        self._draw_nonce = draw
        self._by_weight: dict[int, LazyHeap] = {}
        """The agents with each Q, the oldest first."""
        self._entries: dict[Key, Entry] = {}
        """By agent: its birth, nonce and Q."""
        self._weights: list[int] = []
        """The distinct Qs, ascending."""
        self._oldest: dict[int, Entry] = {}
        """The oldest agent with each Q."""
        self._births: list[tuple[int, int]] = []
        """The births of these and their Qs, ascending."""

    def update_candidate(self, key: Key, candidate: Candidate) -> None:
        """Add an agent, or update it."""
        known = self._entries.get(key)
        if known is not None:
            if known[2] == candidate.weight and known[0] == candidate.birth:
                return
            self.remove_candidate(key)
        weight, birth, _ = candidate
        entry: Entry = [birth, self._draw_nonce(), weight, next(serials), key]
        heap = self._by_weight.get(weight)
        if heap is None:
            heap = self._by_weight[weight] = LazyHeap()
            insort(self._weights, weight)
            insort(self._births, (birth, weight))
            self._oldest[weight] = entry
        elif entry < (oldest := self._oldest[weight]):
            self._replace_oldest(weight, oldest, entry)
        heap.share_entry(entry)
        self._entries[key] = entry

    def remove_candidate(self, key: Key) -> None:
        """Remove an agent."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        weight = entry[2]
        heap = self._by_weight[weight]
        heap.remove_entry(entry)
        if entry is self._oldest[weight]:
            oldest = heap.peek_entry()
            if oldest is None:
                del self._by_weight[weight], self._oldest[weight]
                del self._weights[bisect_left(self._weights, weight)]
                del self._births[bisect_left(self._births, (entry[0], weight))]
            else:
                self._replace_oldest(weight, entry, oldest)

    def _replace_oldest(self, weight: int, before: Entry, oldest: Entry) -> None:
        self._oldest[weight] = oldest
        if oldest[0] != before[0]:
            del self._births[bisect_left(self._births, (before[0], weight))]
            insort(self._births, (oldest[0], weight))

    def clear_candidates(self) -> None:
        """Remove all agents."""
        self._by_weight = {}
        self._entries = {}
        self._weights = []
        self._oldest = {}
        self._births = []

    def pick_next(self, tick: int) -> Key:
        """Return the agent with the highest L; there must be one."""
        alpha, oldest = self.alpha, self._oldest
        if len(self._weights) == 1:
            first: Key = oldest[self._weights[0]][-1]
            return first
        max_weight, max_age = self._weights[-1], tick - self._births[0][0]
        best: tuple[float, int, float] = -1.0, 0, 0.0
        winner: Key = ""
        for heavy, (birth, weight) in zip(reversed(self._weights), self._births, strict=True):
            for each in (weight,) if heavy == weight else (heavy, weight):
                top = oldest[each]
                rank = compute_load(alpha, each, max_weight, tick - top[0], max_age), -top[0], -top[1]
                if rank > best:
                    best, winner = rank, top[-1]
            # Of those that were not compared, none has a greater weight or is older.
            if compute_load(alpha, heavy, max_weight, tick - birth, max_age) < best[0]:
                break
        return winner

    def compute_score(self, key: Key, tick: int) -> float:
        """Return L of an agent."""
        return self.create_scorer(tick)(key)

    def create_scorer(self, tick: int) -> Callable[[Key], float]:
        """Return a function that computes L in constant time, with the maximal Q and D of this moment."""
        entries, alpha = self._entries, self.alpha
        max_weight = self._weights[-1] if self._weights else 0
        max_age = tick - self._births[0][0] if self._births else 0

        def compute_score(key: Key) -> float:
            entry = entries[key]
            return compute_load(alpha, entry[2], max_weight, tick - entry[0], max_age)

        return compute_score


def compute_load(alpha: float, weight: float, max_weight: float, age: int, max_age: int) -> float:
    """Return L(i), with 0/0 = 0."""
    return (alpha * weight / max_weight if max_weight else 0.0) + ((1.0 - alpha) * age / max_age if max_age else 0.0)
