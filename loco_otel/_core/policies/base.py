"""Who goes next: the seam between a line of waiters and the rule that orders it."""

from typing import NamedTuple, Protocol, TypeAlias

from loco_otel.events import Request

Key: TypeAlias = str | tuple[str, str]
"""Who queues apart from others: an agent, or tenant and agent where a tenant is named."""


def key_of(request: Request) -> Key:
    """Return under which key a request queues."""
    return (request.tenant, request.agent) if request.tenant else request.agent


def tenant_of(key: Key) -> str:
    """Return the tenant of a key; those who name none are a tenant of their own, the empty name."""
    return "" if isinstance(key, str) else key[0]


def agent_of(key: Key) -> str:
    """Return the agent of a key."""
    return key if isinstance(key, str) else key[1]


class Candidate(NamedTuple):
    """What a policy may look at: one agent that has at least one waiter."""

    weight: int
    """Qi: milli-weights of all that it has queued."""
    birth: int
    """Tick at which its oldest queued ticket was born: Di = tick - birth."""
    head: tuple[int, int]
    """Birth and sequence number of its oldest waiter, the one that would be granted."""


class Policy(Protocol):
    """Orders the agents that have a waiter. Agents without one are not there, so they weigh on nothing."""

    name: str
    alpha: float
    """Share of Q in the score; 0 for a policy that has no score."""
    is_metered: bool
    """Whether it goes by what was served: only then `granted` and `settled` are called."""

    def update_candidate(self, key: Key, standing: Candidate) -> None:
        """Let an agent compete, or note its new standing."""

    def remove_candidate(self, key: Key) -> None:
        """Let an agent compete no more."""

    def clear_candidates(self) -> None:
        """Forget all agents."""

    def pick_next(self, tick: int) -> Key:
        """Name the agent to be granted next; at least one competes."""

    def compute_score(self, key: Key, tick: int) -> float:
        """Tell the score of an agent that competes: the higher, the better placed."""

    def charge_grant(self, key: Key, weight: int) -> None:
        """Charge an agent for a call; one that competes is then `put` again or dropped."""

    def adjust_charge(self, key: Key, delta: int) -> None:
        """Note that a call that was charged is over, and took so many milli-weights more than that."""


class UnmeteredPolicy:
    """What a policy does about service that does not go by it: nothing."""

    is_metered = False

    def charge_grant(self, key: Key, weight: int) -> None:
        """Charge nobody."""

    def adjust_charge(self, key: Key, delta: int) -> None:
        """Nobody was charged."""
