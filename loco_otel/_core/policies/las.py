"""The `las` policy: the agent or run that has attained the least service is granted next.

Least attained service, as in Autellix (M. Luo et al., "Autellix: An Efficient Serving Engine for LLM Agents as General
Programs", arXiv 2502.13965) and, as foreground-background scheduling, in M. Nuyens, A. Wierman, "The
Foreground-Background queue: A survey", Performance Evaluation 65, 2008. What is short ends soon, without anybody's
estimate of what is short. Of equals the one with the oldest waiter is first.

Attained service is the weight of the calls that were granted, corrected by what they really took, each divided by its
agent's share. It halves with each half-life since the grant. All halve alike, so an account stores the weight times
2^(time of the grant / half-life), and the order changes only with grants and corrections: O(log n) each, where n counts
the keys that wait.

**Bound.** Let i wait with attained service a, and let l_j be the largest request of j, all divided by shares and
halved to one moment. Until i is granted, j is granted at most

    max(0, a - a_j) + l_j

Proof: j is granted before i only while its account is at most a, so the last of these grants begins at a or below.
Corrections add at most n_j e, where n_j is the number of concurrent calls of j and e the greatest error of one. Each
newcomer starts at 0, so a stream of new runs can delay an old one for as long as it lasts: only the guard bounds the
wait (see `QueueSet`). That is the price, and what has attained most pays it.

An account without waiters and calls is removed after `idle_timeout` seconds, or earlier if there are more than
`MAX_IDLE_ACCOUNTS` of them: the one that has been silent longest.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from math import inf

from loco_otel._core.lazy_heap import Entry, LazyHeap
from loco_otel._core.policies.base import Candidate, Key
from loco_otel.events import MILLI

MAX_IDLE_ACCOUNTS = 10_000
"""Maximal number of accounts without waiters and calls."""

_MAX_EXPONENT = 512.0
"""Half-lives after which all accounts are divided by 2^512, which is exact, so that none overflows."""


class _AttainedService:
    """The account of one key. `open_calls` counts its calls that are charged and not settled."""

    __slots__ = ("attained", "entry", "head", "idle_since", "open_calls")

    def __init__(self) -> None:
        self.attained = 0.0
        self.open_calls = 0
        self.head: tuple[int, int] | None = None
        """Of its oldest waiter; None if it does not compete."""
        self.entry: Entry | None = None
        self.idle_since = 0.0


class LasPolicy:
    """The policy that the module describes.

    Args:
        shares: in thousandths, by agent; others have 1.
        half_life: seconds; inf for service that never fades.
        idle_timeout: seconds after which a silent account is removed.

    """

    name = "las"
    alpha = 0.0
    is_metered = True

    def __init__(self, shares: Mapping[str, int], *, half_life: float = inf, idle_timeout: float = inf) -> None:
        self._shares = shares
        self._half_life = half_life
        self._idle_timeout = idle_timeout
        self._origin = 0.0
        """The time at which service is stored without a factor."""
        self._now = 0.0
        """The time of the last charge or correction."""
        self._accounts: dict[Key, _AttainedService] = {}
        self._idle: dict[Key, None] = {}
        """Keys without waiters and calls; the one that has been silent longest is first."""
        self._competing = LazyHeap()

    @property
    def has_history(self) -> bool:
        """Whether it has the account of a key that neither waits nor is served."""
        return bool(self._idle)

    def update_candidate(self, key: Key, candidate: Candidate) -> None:
        """Add a key, or update it."""
        account = self._get_account(key)
        if account.head != candidate.head:
            account.head = candidate.head
            self._idle.pop(key, None)
            self._push_entry(key, account)

    def remove_candidate(self, key: Key) -> None:
        """Remove a key; its account stays."""
        account = self._accounts.get(key)
        if account is not None and account.head is not None:
            account.head = None
            self._push_entry(key, account)
            self._mark_idle(key, account)

    def clear_candidates(self) -> None:
        """Remove all keys and their accounts."""
        self._accounts, self._idle, self._competing = {}, {}, LazyHeap()

    def restore_accounts(self, charged: Sequence[Key], waiting: Collection[Key]) -> None:
        """Remove all keys, and keep what each has attained."""
        open_calls = Counter(charged)
        self._competing, self._idle = LazyHeap(), {}
        for key in open_calls:
            self._get_account(key)
        for key, account in self._accounts.items():
            account.open_calls = open_calls[key]
            account.head = account.entry = None
            if key not in waiting:
                self._mark_idle(key, account)

    def pick_next(self, tick: int) -> Key:  # noqa: ARG002 - the protocol's
        """Return the key that has attained the least; there must be one."""
        first = self._competing.peek_entry()
        assert first is not None  # noqa: S101 - invariant: asked only while someone waits
        key: Key = first[-1]
        return key

    def compute_score(self, key: Key, tick: int) -> float:  # noqa: ARG002 - the protocol's
        """Return the attained service of a key, negative: weight / share, faded until the last charge or correction."""
        return -self._accounts[key].attained / (self._compute_factor(self._now) * MILLI)

    def create_scorer(self, tick: int) -> Callable[[Key], float]:
        """Return a function that computes scores."""
        return lambda key: self.compute_score(key, tick)

    def charge_grant(self, key: Key, agent: str, weight: int, now: float) -> None:
        """Charge a key for a call of an agent."""
        self._now = now
        self.remove_silent(now)
        account = self._get_account(key)
        self._idle.pop(key, None)
        account.open_calls += 1
        self._add_service(key, account, agent, weight, now)

    def adjust_charge(self, key: Key, agent: str, delta: int, charged_at: float, now: float) -> None:
        """Correct the charge of a call that has ended."""
        self._now = now
        self.remove_silent(now)
        account = self._accounts.get(key)
        if account is not None and account.open_calls:
            account.open_calls -= 1
            if delta:
                self._add_service(key, account, agent, delta, charged_at)
            self._mark_idle(key, account)

    def remove_silent(self, now: float) -> None:
        """Remove accounts that have been silent for long, and keep the numbers small."""
        while self._idle:
            key = next(iter(self._idle))
            if len(self._idle) <= MAX_IDLE_ACCOUNTS and now - self._accounts[key].idle_since < self._idle_timeout:
                break
            del self._idle[key], self._accounts[key]
        steps = (now - self._origin) // (_MAX_EXPONENT * self._half_life)
        if steps > 0:
            self._origin += steps * _MAX_EXPONENT * self._half_life
            self._now = max(self._now, self._origin)  # else the factor of a policy that was idle for long would be 0
            for key, account in self._accounts.items():
                account.attained *= 2.0 ** (-_MAX_EXPONENT * steps)
                self._push_entry(key, account)

    def _add_service(self, key: Key, account: _AttainedService, agent: str, weight: int, at: float) -> None:
        account.attained += weight * MILLI / self._shares.get(agent, MILLI) * self._compute_factor(at)
        if account.head is not None:
            self._push_entry(key, account)

    def _compute_factor(self, at: float) -> float:
        return float(2.0 ** ((at - self._origin) / self._half_life))

    def _push_entry(self, key: Key, account: _AttainedService) -> None:
        """Put a key at its place among those that compete, or nowhere."""
        if account.entry is not None:
            self._competing.remove_entry(account.entry)
        account.entry = None
        if account.head is not None:
            account.entry = self._competing.push_entry(account.attained, *account.head, item=key)

    def _get_account(self, key: Key) -> _AttainedService:
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _AttainedService()
        return account

    def _mark_idle(self, key: Key, account: _AttainedService) -> None:
        if account.head is None and not account.open_calls:
            account.idle_since = self._now
            self._idle[key] = None
