"""Tickets and their changes, as the step script takes them (see `lua/step.lua` and `lua/sync.lua`)."""

from collections.abc import Container, Sequence

from loco_otel._core.idle_leases import iter_stuck_classes
from loco_otel._core.policies.base import key_of
from loco_otel._core.remote import RemoteChange, RemoteNote
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.redis.batches import LINE_SEPARATOR, Operation
from loco_otel.events import Priority

WAITING, _HELD, _SUSPENDED = 0, 1, 2
"""The states of a ticket in a sync, see `lua/state.lua`."""

_SEPARATOR = "\x1f"
"""Between the parts of a queue's key: tenant, agent or run."""

_CLASSES = {priority: rank for rank, priority in enumerate(Priority)}


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


def list_stuck_classes(core: Scheduler, now: float) -> dict[tuple[str, int], tuple[int, str]]:
    """Return number of leases and next waiter of each class that only its ceiling delays, by resource and class."""
    stuck = iter_stuck_classes(core.resources, core.deadlock_detector.is_blocked, now)
    return {(name, _CLASSES[priority]): (count, ticket.id) for name, priority, count, ticket in stuck}


def name_line(resources: Sequence[str]) -> str:
    """Return the name of the line in which a request for these resources waits."""
    return resources[0] if len(resources) == 1 else LINE_SEPARATOR.join(sorted(resources))


def make_submission(ticket: Ticket) -> Operation:
    """Return the request of a slot."""
    request = ticket.request
    waited = ticket.waited_ticks if ticket.repeated else 0
    facts = name_line(request.resources), _name_queue(ticket), request.weight, waited, int(is_immediate(ticket))
    return ("submit", ticket.id, *facts, request.tokens, *_list_extra_facts(ticket, ticket.waiting_since))


def list_tickets(core: Scheduler, shared: Container[str], now: float) -> Sequence[Operation]:
    """Return all tickets at shared resources, for a sync, but for those that may not wait."""
    tickets: list[Operation] = []
    for ticket in core.tickets.values():
        if ticket.state is State.NEW or any(name not in shared for name in ticket.request.resources):
            continue
        if ticket.state is State.WAITING and is_immediate(ticket):
            continue
        tick = core.resources.get_queue_set(ticket.request.resources).tick
        state, waited = WAITING, tick - ticket.birth
        if ticket.state is not State.WAITING:
            state = _HELD if ticket.state.is_holding else _SUSPENDED
            waited = ticket.waited_ticks
        request = ticket.request
        queue = name_line(request.resources), _name_queue(ticket)
        facts = request.weight, max(0, waited), state, tick, request.tokens
        tickets.append((ticket.id, *queue, *facts, *_list_extra_facts(ticket, now)))
    # The leases first, so that nothing is granted in their place.
    tickets.sort(key=lambda fields: fields[5] != _HELD)
    return tickets


def is_immediate(ticket: Ticket) -> bool:
    """Return whether a ticket may not wait."""
    timeout = ticket.request.timeout
    return timeout is not None and timeout <= 0


def _list_extra_facts(ticket: Ticket, now: float) -> Sequence[str | int]:
    """Return what most tickets do not have: a run, another class than `normal`, ms until the deadline; -1 is none."""
    request = ticket.request
    run, deadline = request.run, request.deadline
    if run is None and deadline is None and request.priority is Priority.NORMAL:
        return ()
    due = -1 if deadline is None else max(0, round((deadline - now) * 1000))
    return (run or "").replace(_SEPARATOR, " "), _CLASSES[request.priority], due


def _name_queue(ticket: Ticket) -> str:
    """Return the name of an agent's queue, with its tenant if there is one."""
    key = key_of(ticket.request)
    names = (key,) if isinstance(key, str) else key
    return _SEPARATOR.join([name.replace(_SEPARATOR, " ") for name in names])
