"""The runs that hold or wait at one moment, from the tickets that have not ended."""

from collections.abc import Iterable
from typing import NamedTuple

from loco_otel._core.ticket import State, Ticket
from loco_otel.snapshots import RunSnapshot


class _Requests(NamedTuple):
    holding: list[Ticket]
    waiting: list[Ticket]


def list_runs(tickets: Iterable[Ticket], now: float) -> list[RunSnapshot]:
    """Return the runs of some tickets, the longest wait first."""
    by_run: dict[str, _Requests] = {}
    for ticket in tickets:
        run, state = ticket.request.run, ticket.state
        if run is not None and (state is State.WAITING or state.is_holding):
            requests = by_run.setdefault(run, _Requests([], []))
            (requests.waiting if state is State.WAITING else requests.holding).append(ticket)
    return sorted(
        (_make_snapshot(run, requests, now) for run, requests in by_run.items()),
        key=lambda it: (-it.oldest_wait, -it.holding, it.run),
    )


def _make_snapshot(run: str, requests: _Requests, now: float) -> RunSnapshot:
    both = (*requests.holding, *requests.waiting)
    first = both[0].request
    return RunSnapshot(
        run,
        tuple(dict.fromkeys(ticket.request.agent for ticket in both)),
        first.workflow,
        first.session,
        first.priority.value,
        len(requests.holding),
        len(requests.waiting),
        max((now - ticket.waiting_since for ticket in requests.waiting), default=0.0),
        sum(ticket.request.weight for ticket in both),
    )
