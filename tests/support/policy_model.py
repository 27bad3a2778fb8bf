"""The accounts of service of `fair`, `las` and tenants, as their documentation has them, and the `load` score.

Part of the model in `resource_model.py`: no account is ever removed, and nothing is stored in a heap.
"""

from collections import deque
from collections.abc import Iterable
from fractions import Fraction
from math import ceil
from zlib import crc32

from loco_otel._core.policies.base import Candidate, Key
from loco_otel._core.policies.load import LoadPolicy

SHARES = {"a": 2000, "b": 500}
"""In thousandths, by agent; the others have 1."""
HALF_LIFE = 4.0
"""Of `las`, in seconds."""
TENANT_SHARES = {"acme": 3000}


def nonce(key: Key) -> float:
    """What breaks ties under `load`: the same each time, and another for each agent and run."""
    return crc32("/".join((key,) if isinstance(key, str) else key).encode()) / 2**32


class Drawn(LoadPolicy):
    """The real `load` policy, with these nonces."""

    def __init__(self, alpha: float) -> None:
        super().__init__(alpha, lambda: nonce(self._asking))
        self._asking: Key = ""

    def update_candidate(self, key: Key, standing: Candidate) -> None:
        self._asking = key
        super().update_candidate(key, standing)


def load(alpha: float, weight: int, max_weight: int, age: int, max_age: int) -> float:
    """L(i), as specified."""
    by_weight = alpha * weight / max_weight if max_weight else 0.0
    by_age = (1.0 - alpha) * age / max_age if max_age else 0.0
    return by_weight + by_age


class Accounts:
    """Start-time fair queueing as the paper has it: nobody is ever forgotten, and V jumps when nobody is served."""

    def __init__(self, shares: dict[str, int]) -> None:
        self.shares = shares
        self.virtual = 0
        self.tags: dict[Key, int] = {}
        self.open: deque[Key] = deque()
        self.waiting: set[Key] = set()
        self.fresh: set[Key] = set()
        """Waiters that were owed nothing at their start, and were not granted since."""

    def tag(self, key: Key) -> int:
        return self.tags[key] if key in self.waiting else max(self.virtual, self.tags.get(key, 0))

    def compete(self, keys: Iterable[Key]) -> None:
        """Record the waiters: a newcomer starts at V."""
        keys = set(keys)
        for key in keys - self.waiting:
            if self.tags.get(key, 0) <= self.virtual:
                self.fresh.add(key)
            self.tags[key] = self.tag(key)
        self.fresh &= keys
        self.waiting = keys
        self.end()

    def granted(self, key: Key, agent: str, weight: int, now: float) -> None:
        self.tags[key] = self.tag(key)
        self.virtual = max(self.virtual, min(self.tags[each] for each in {*self.waiting, key}))
        self.tags[key] += self.cost(agent, weight)
        self.fresh.discard(key)
        self.open.append(key)

    def settled(self, key: Key, agent: str, delta: int, charged_at: float, now: float) -> None:
        self.open.remove(key)
        self.tags[key] += self.cost(agent, delta)
        self.end()

    def rank(self, key: Key) -> tuple[float, bool]:
        return self.tags[key], key not in self.fresh

    def score(self, key: Key) -> float:
        return (self.virtual - self.tags[key]) / 1_000_000

    def end(self) -> None:
        if not self.open and not self.waiting:
            self.virtual = max([self.virtual, *self.tags.values()])

    def is_forgotten(self, key: Key) -> bool:
        return key not in self.waiting and key not in self.open and self.tags.get(key, 0) <= self.virtual

    def cost(self, agent: str, weight: int) -> int:
        return ceil(Fraction(weight * 1_000_000, self.shares.get(agent, 1000)))


class Attained(Accounts):
    """Least attained service: what each was ever granted, halved with each half-life since."""

    def __init__(self, shares: dict[str, int]) -> None:
        super().__init__(shares)
        self.attained: dict[Key, float] = {}
        self.last = 0.0

    def compete(self, keys: Iterable[Key]) -> None:
        self.waiting = set(keys)

    def granted(self, key: Key, agent: str, weight: int, now: float) -> None:
        self.last = now
        self.serve(key, agent, weight, now)

    def settled(self, key: Key, agent: str, delta: int, charged_at: float, now: float) -> None:
        self.last = now
        if delta:
            self.serve(key, agent, delta, charged_at)

    def serve(self, key: Key, agent: str, weight: int, at: float) -> None:
        grown = weight * 1000 / self.shares.get(agent, 1000) * 2.0 ** (at / HALF_LIFE)
        self.attained[key] = self.attained.get(key, 0.0) + grown

    def rank(self, key: Key) -> tuple[float, bool]:
        return self.attained.get(key, 0.0), False

    def score(self, key: Key) -> float:
        return -self.attained.get(key, 0.0) / (2.0 ** (self.last / HALF_LIFE) * 1000)


class TwoLayers(Accounts):
    """Accounts of tenants, and within each of its agents or runs.

    A tenant that is forgotten takes what is within along, unless that must be remembered.
    """

    def __init__(self, policy: str) -> None:
        super().__init__(TENANT_SHARES)
        self.policy = policy
        self.inner: dict[str, Accounts] = {}

    def of(self, tenant: str) -> Accounts:
        if tenant not in self.inner or (self.policy != "las" and self.is_forgotten(tenant)):
            self.inner[tenant] = make_accounts(self.policy)
        return self.inner[tenant]


def make_accounts(policy: str) -> Accounts:
    return Attained(SHARES) if policy == "las" else Accounts(SHARES)
