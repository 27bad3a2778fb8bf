"""The `fair` policy: the agent that was served least, by cost, is granted next.

Start-time fair queueing: P. Goyal, H. M. Vin, H. Cheng, "Start-time Fair Queuing: A Scheduling Algorithm for Integrated
Services Packet Switching Networks", SIGCOMM 1996. Each agent has a tag, the virtual time at which its next call starts.
A grant increases it by cost / share, and the smallest tag is granted next. The virtual time V is the smallest tag at
the last grant. An agent that begins to wait starts at max(V, its tag): idle time earns nothing, and debt stays. Of
equal tags those without debt come first, as the others have been served since V; then those with the oldest waiter.

**Bound.** Let two agents f and m always have a waiter, with shares r, and let l be the largest request of each. Their
service in that time, each divided by its share, differs by at most

    l_f / r_f + l_m / r_m        (at most twice the largest request, at equal shares)

Proof: f is only granted while tag_f <= tag_m, so tag_f <= tag_m + l_f / r_f after it, and while f is not granted tag_f
is constant and tag_m grows. The converse holds as well, so the difference of the tags stays within
[-l_m / r_m, l_f / r_f]; between two moments it changes by at most the length of that interval, and while an agent
waits its tag changes by its service only. It holds for any number of slots, counted when calls are granted.

**Corrections.** The cost of a call is measured when it ends; until then its estimate counts. A settlement changes the
tag by the difference. Let n be the maximal number of concurrent calls of the two and e the greatest error of one,
divided by its share. After the last grant of f, corrections can change tag_f - tag_m by at most n e, as no call has a
negative cost. So the tags differ by at most n e more to either side, and the service by

    l_f / r_f + l_m / r_m + 2 n e

The guard and shared slots bypass the policy; their grants are charged, and the bound does not hold meanwhile.

Tags are integers, so they can be computed anywhere, in a Lua script too: milli-weights times `TAGS_PER_MILLI` at share
1, rounded up, with shares in thousandths. O(log n) per change, where n counts the agents that wait, are
served, or have a tag above V. Idle agents with a tag of at most V are removed, which loses nothing, and so are all
agents once none waits or is served. Of the other idle agents `MAX_IDLE_AGENTS` are kept: above that number V rises to
the smallest tag, as that agent is then equivalent to a new one.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from loco_otel._core.lazy_heap import Entry, LazyHeap
from loco_otel._core.policies.base import Candidate, Key
from loco_otel.events import MILLI

TAGS_PER_MILLI = 1000
"""Increase of a tag per milli-weight, at share 1."""

MAX_IDLE_AGENTS = 1000
"""Maximal number of idle agents with a tag above the virtual time."""


class _ServiceAccount:
    """The account of one agent. `open_calls` counts its calls that are charged and not settled."""

    __slots__ = ("entry", "is_competing", "is_owing", "is_restored", "open_calls", "tag")

    def __init__(self, tag: int) -> None:
        self.tag = tag
        self.is_competing = False
        self.is_owing = False
        """Whether it has been served since the virtual time, whatever its tag."""
        self.is_restored = False
        """Whether it competed before an interrupted operation: its tag may be below the virtual time, and stays."""
        self.open_calls = 0
        self.entry: Entry | None = None
        """Its entry among the competing or the idle agents; None while it is served and has no waiter."""


class FairPolicy:
    """The policy that the module describes.

    Args:
        shares: in thousandths, by agent; others have 1.
        forgotten: called with the key of each account that is removed.

    """

    name = "fair"
    alpha = 0.0
    is_metered = True
    has_history = False
    """What is kept of idle agents is gone once all are idle."""

    def __init__(self, shares: Mapping[str, int], forgotten: Callable[[Key], object] | None = None) -> None:
        self._shares = shares
        self._on_forgotten = forgotten
        self._reset_accounts()

    def _reset_accounts(self) -> None:
        self._virtual_time = 0
        self._open_calls = 0
        self._accounts: dict[Key, _ServiceAccount] = {}
        self._competing = LazyHeap()
        self._idle = LazyHeap()

    def update_candidate(self, key: Key, candidate: Candidate) -> None:
        """Add an agent, with a tag of at least V, or update it."""
        account = self._get_account(key)
        entry = account.entry
        if account.is_competing and entry is not None:
            granted = entry[0] != account.tag
            if not granted and (entry[2], entry[3]) == candidate.head:
                return
            self._competing.remove_entry(entry)
            owing = granted or entry[1]
        else:
            owing = account.is_owing or account.tag > self._virtual_time
            account.is_owing = False
            self._activate_account(account)
            account.is_competing = True
        account.entry = self._competing.push_entry(account.tag, owing, *candidate.head, item=key)

    def remove_candidate(self, key: Key) -> None:
        """Remove an agent; its account stays."""
        account = self._accounts.get(key)
        if account is None or not account.is_competing:
            return
        if account.entry is not None:
            self._competing.remove_entry(account.entry)
            account.entry = None
        account.is_competing = False
        self._deactivate_account(key, account)

    def clear_candidates(self) -> None:
        """Remove all agents and their accounts."""
        self._reset_accounts()

    def remove_silent(self, now: float) -> None:
        """Do nothing: accounts are removed as the virtual time reaches them."""

    def restore_accounts(self, charged: Sequence[Key], waiting: Collection[Key]) -> None:
        """Remove all agents, and derive the accounts from their tags and the calls that are charged."""
        before, virtual = self._accounts, self._virtual_time
        self._reset_accounts()
        open_calls = Counter(charged)
        if open_calls or waiting:
            self._virtual_time = virtual
            for key in open_calls:
                self._get_account(key)
            for key, account in before.items():
                if key in open_calls or key in waiting or account.tag > virtual:
                    restored, entry = self._get_account(key), account.entry
                    restored.tag = account.tag
                    if account.is_competing and entry is not None:
                        restored.is_owing = bool(entry[0] != account.tag or entry[1])
                        restored.is_restored = key in waiting
            for key, account in self._accounts.items():
                account.open_calls = open_calls[key]
                if not account.open_calls:
                    account.entry = self._idle.push_entry(account.tag, item=key)
            self._open_calls = len(charged)
        if self._on_forgotten is not None:
            for key in before.keys() - self._accounts.keys():
                self._on_forgotten(key)

    def pick_next(self, tick: int) -> Key:  # noqa: ARG002 - the protocol's
        """Return the agent with the smallest tag; there must be one."""
        first = self._competing.peek_entry()
        assert first is not None  # noqa: S101 - invariant: asked only while someone waits
        key: Key = first[-1]
        return key

    def compute_score(self, key: Key, tick: int) -> float:  # noqa: ARG002 - the protocol's
        """Return the weight, at share 1, by which an agent is behind the virtual time; negative if ahead."""
        return (self._virtual_time - self._accounts[key].tag) / (TAGS_PER_MILLI * MILLI)

    def create_scorer(self, tick: int) -> Callable[[Key], float]:
        """Return a function that computes scores."""
        return lambda key: self.compute_score(key, tick)

    def charge_grant(self, key: Key, agent: str, weight: int, now: float) -> None:  # noqa: ARG002 - the protocol's
        """Charge a key for a call of an agent."""
        account = self._get_account(key)
        if not account.is_competing:
            self._activate_account(account)
        first = self._competing.peek_entry()
        start = account.tag if first is None else min(account.tag, int(first[0]))
        if start > self._virtual_time:
            self._advance_virtual_time(start)
        account.tag += _compute_tag_increment(weight, self._shares.get(agent, MILLI))
        account.open_calls += 1
        self._open_calls += 1

    def adjust_charge(
        self,
        key: Key,
        agent: str,
        delta: int,
        charged_at: float,  # noqa: ARG002 - the protocol's
        now: float,  # noqa: ARG002
    ) -> None:
        """Correct the charge of a call that has ended."""
        account = self._accounts.get(key)
        if account is None or not account.open_calls:
            return
        account.open_calls -= 1
        self._open_calls -= 1
        account.tag += _compute_tag_increment(delta, self._shares.get(agent, MILLI))
        if not account.is_competing:
            self._deactivate_account(key, account)
        elif delta and account.entry is not None:
            _, owing, birth, seq, *_ = account.entry
            self._competing.remove_entry(account.entry)
            account.entry = self._competing.push_entry(account.tag, owing, birth, seq, item=key)

    def _get_account(self, key: Key) -> _ServiceAccount:
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _ServiceAccount(self._virtual_time)
        return account

    def _activate_account(self, account: _ServiceAccount) -> None:
        """Raise the tag of an agent that begins to wait to the virtual time."""
        if account.entry is not None:
            self._idle.remove_entry(account.entry)
            account.entry = None
        if not account.is_restored:
            account.tag = max(account.tag, self._virtual_time)
        account.is_restored = False

    def _deactivate_account(self, key: Key, account: _ServiceAccount) -> None:
        """Keep or remove the account of an agent that does not wait."""
        if account.open_calls:
            return
        account.entry = self._idle.push_entry(account.tag, item=key)
        if not self._open_calls and not self._competing:
            self._advance_virtual_time(None)
            self._virtual_time = 0
        elif account.tag <= self._virtual_time:
            self._advance_virtual_time(self._virtual_time)
        elif len(self._idle) > MAX_IDLE_AGENTS and (first := self._idle.peek_entry()) is not None:
            self._advance_virtual_time(int(first[0]))

    def _advance_virtual_time(self, virtual: int | None) -> None:
        """Advance the virtual time, with None past all tags, and remove idle accounts that it has reached."""
        while (first := self._idle.peek_entry()) is not None and (virtual is None or first[0] <= virtual):
            key: Key = first[-1]
            self._idle.remove_entry(first)
            del self._accounts[key]
            if self._on_forgotten is not None:
                self._on_forgotten(key)
        if virtual is not None:
            self._virtual_time = virtual


def _compute_tag_increment(weight: int, share: int) -> int:
    """Return the increase of a tag, rounded up, so that no request is free."""
    return -(-weight * TAGS_PER_MILLI * MILLI // share)
