"""Tickets and their changes, as the step script takes them (see `lua/step.lua` and `lua/sync.lua`)."""

from collections.abc import Container, Sequence

from loco_otel._core.policies.base import key_of
from loco_otel._core.remote import RemoteChange, RemoteNote
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.redis.batches import Operation

WAITING, _HELD, _SUSPENDED = 0, 1, 2
"""The states of a ticket in a sync, see `lua/state.lua`."""

_SEPARATOR = "\x1f"
"""Between the parts of a queue's key: tenant, agent or run."""


def make_operation(note: RemoteNote) -> Operation:
    """Return the operation of a change."""
    ticket = note.ticket
    if note.change is RemoteChange.REQUESTED:
        return make_submission(ticket)
    if note.change is RemoteChange.SUSPENDED:
        return ("suspend", ticket.id, *ticket.rate_correction)
    if note.change is RemoteChange.ENDED:
        return ("end", ticket.id, ticket.correction, *ticket.rate_correction, int(ticket.has_succeeded))
    return (note.change.value, ticket.id, note.pause, note.header or "")


def make_submission(ticket: Ticket) -> Operation:
    """Return the request of a slot."""
    request = ticket.request
    waited = ticket.waited_ticks if ticket.repeated else 0
    facts = request.resources[0], _name_queue(ticket), request.weight, waited, int(is_immediate(ticket))
    return ("submit", ticket.id, *facts, request.tokens, *_list_extra_facts(ticket))


def list_tickets(core: Scheduler, shared: Container[str]) -> Sequence[Operation]:
    """Return all tickets at shared resources, for a sync, but for those that may not wait."""
    tickets: list[Operation] = []
    for ticket in core.tickets.values():
        if ticket.request.resources[0] not in shared or ticket.state is State.NEW:
            continue
        if ticket.state is State.WAITING and is_immediate(ticket):
            continue
        tick = core.resources.get_queue_set(ticket.request.resources).tick
        state, waited = WAITING, tick - ticket.birth
        if ticket.state is not State.WAITING:
            state = _HELD if ticket.state.is_holding else _SUSPENDED
            waited = ticket.waited_ticks
        request = ticket.request
        facts = request.resources[0], _name_queue(ticket), request.weight, max(0, waited), state, tick, request.tokens
        tickets.append((ticket.id, *facts, *_list_extra_facts(ticket)))
    # The leases first, so that nothing is granted in their place.
    tickets.sort(key=lambda fields: fields[5] != _HELD)
    return tickets


def is_immediate(ticket: Ticket) -> bool:
    """Return whether a ticket may not wait."""
    timeout = ticket.request.timeout
    return timeout is not None and timeout <= 0


def _list_extra_facts(ticket: Ticket) -> Sequence[str]:
    """Return what most tickets do not have: a run."""
    run = ticket.request.run
    return () if run is None else (run.replace(_SEPARATOR, " "),)


def _name_queue(ticket: Ticket) -> str:
    """Return the name of an agent's queue, with its tenant if there is one."""
    key = key_of(ticket.request)
    names = (key,) if isinstance(key, str) else key
    return _SEPARATOR.join([name.replace(_SEPARATOR, " ") for name in names])
