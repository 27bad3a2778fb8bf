"""Who goes next: the seam between a line of waiters and the rule that orders it."""

from typing import NamedTuple, Protocol


class Standing(NamedTuple):
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

    def put(self, agent: str, standing: Standing) -> None:
        """Let an agent compete, or note its new standing."""

    def drop(self, agent: str) -> None:
        """Forget an agent."""

    def clear(self) -> None:
        """Forget all agents."""

    def pick(self, tick: int) -> str:
        """Name the agent to be granted next; at least one competes."""

    def score(self, agent: str, tick: int) -> float:
        """Tell L of an agent that competes."""
