"""Callers that queue one after the other."""

from functools import partial

from callers import Caller, Desk, Way

from loco_otel import slot


def queue_callers(desk: Desk, way: Way, *agents: str, timeout: float | None = None) -> list[Caller]:
    """Let callers come one after the other, each when the one before it waits."""
    waiting = desk.counts[1]
    callers = []
    for agent in agents:
        callers.append(way.call(partial(slot, agent, timeout=timeout)))
        waiting += 1
        desk.waiters(waiting)
    return callers


def hold_slot(way: Way, agent: str = "holder") -> Caller:
    """Start a caller that holds a slot, and return once it does."""
    return way.call(partial(slot, agent)).inside()
