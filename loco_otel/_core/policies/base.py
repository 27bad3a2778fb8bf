"""The interface between a queue set and the policy that selects the next grant."""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from loco_otel.events import Request

Key: TypeAlias = str | tuple[str, str]
"""What has a queue of its own: an agent, or tenant and agent if the request names a tenant."""


def key_of(request: Request) -> Key:
    """Return the key of the queue that a request belongs to."""
    return (request.tenant, request.agent) if request.tenant else request.agent


def tenant_of(key: Key) -> str:
    """Return the tenant of a key; requests without one belong to the tenant with the empty name."""
    return "" if isinstance(key, str) else key[0]


def agent_of(key: Key) -> str:
    """Return the agent of a key."""
    return key if isinstance(key, str) else key[1]


class Candidate(NamedTuple):
    """What a policy compares: one agent that has at least one waiter."""

    weight: int
    """Qi: milli-weights of all its queued requests."""
    birth: int
    """Tick at which its oldest request was queued: Di = tick - birth."""
    head: tuple[int, int]
    """Birth and sequence number of its oldest waiter, which would be granted."""


class Policy(Protocol):
    """Orders the agents that have a waiter. Agents without one have no influence."""

    name: str
    alpha: float
    """Share of Q in the score; 0 for a policy without a score."""
    is_metered: bool
    """Whether it depends on past service: only then its accounts are charged, adjusted and restored."""

    def update_candidate(self, key: Key, candidate: Candidate) -> None:
        """Add an agent, or update it."""

    def remove_candidate(self, key: Key) -> None:
        """Remove an agent."""

    def clear_candidates(self) -> None:
        """Remove all agents."""

    def pick_next(self, tick: int) -> Key:
        """Return the agent to be granted next; there must be one."""

    def compute_score(self, key: Key, tick: int) -> float:
        """Return the score of an agent: the highest is granted next."""

    def create_scorer(self, tick: int) -> Callable[[Key], float]:
        """Return a function that computes scores as `compute_score` does now, each in constant time."""

    def charge_grant(self, key: Key, weight: int) -> None:
        """Charge an agent for a call; if it has a waiter, it is then updated or removed."""

    def adjust_charge(self, key: Key, delta: int) -> None:
        """Correct the charge of a call that has ended by a difference in milli-weights."""

    def restore_accounts(self, charged: Sequence[Key], waiting: Collection[Key]) -> None:
        """Remove all agents, after an interrupted operation, and keep what they were served.

        Args:
            charged: the agent of each call that was charged and has not ended.
            waiting: the agents that are then added again.

        """


class UnmeteredPolicy:
    """A policy that does not depend on past service."""

    is_metered = False

    def charge_grant(self, key: Key, weight: int) -> None:
        """Do nothing."""

    def adjust_charge(self, key: Key, delta: int) -> None:
        """Do nothing."""

    def restore_accounts(self, charged: Sequence[Key], waiting: Collection[Key]) -> None:
        """Do nothing."""
