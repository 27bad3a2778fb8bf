"""The interface between a queue set and the policy that selects the next grant."""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from loco_otel.events import Request

Key: TypeAlias = str | tuple[str, str] | tuple[str, str, str]
"""What has a queue of its own: an agent, tenant and agent, or for a run its tenant, the run and the word `run`."""


def key_of(request: Request) -> Key:
    """Return the key of the queue that a request belongs to."""
    return (request.tenant, request.agent) if request.tenant else request.agent


def run_key_of(request: Request) -> Key:
    """Return the key of the run that a request belongs to; of its agent if it has none."""
    return key_of(request) if request.run is None else (request.tenant or "", request.run, "run")


def tenant_of(key: Key) -> str:
    """Return the tenant of a key; requests without one belong to the tenant with the empty name."""
    return "" if isinstance(key, str) else key[0]


class Candidate(NamedTuple):
    """What a policy compares: one agent or run that has at least one waiter."""

    weight: int
    """Qi: milli-weights of all its queued requests."""
    birth: int
    """Tick at which its oldest request was queued: Di = tick - birth."""
    head: tuple[int, int]
    """Birth and sequence number of its oldest waiter, which would be granted."""


class Policy(Protocol):
    """Orders the agents, or with `LOCO_QUEUE_BY=run` the runs, that have a waiter. Others have no influence.

    Statements about agents here and in the policies hold for runs too.
    """

    name: str
    alpha: float
    """Share of Q in the score; 0 for a policy without a score."""
    is_metered: bool
    """Whether it depends on past service: only then its accounts are charged, adjusted and restored."""

    @property
    def has_history(self) -> bool:
        """Whether it keeps accounts of what neither waits nor is served."""

    def remove_silent(self, now: float) -> None:
        """Remove those of them that have been silent for too long."""

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

    def charge_grant(self, key: Key, agent: str, weight: int, now: float) -> None:
        """Charge a key for a call of an agent, whose share applies. A key with a waiter is updated or removed next."""

    def adjust_charge(self, key: Key, agent: str, delta: int, charged_at: float, now: float) -> None:
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
    has_history = False

    def remove_silent(self, now: float) -> None:
        """Do nothing."""

    def charge_grant(self, key: Key, agent: str, weight: int, now: float) -> None:
        """Do nothing."""

    def adjust_charge(self, key: Key, agent: str, delta: int, charged_at: float, now: float) -> None:
        """Do nothing."""

    def restore_accounts(self, charged: Sequence[Key], waiting: Collection[Key]) -> None:
        """Do nothing."""
