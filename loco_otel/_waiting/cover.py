"""The call that runs under a slot of the program's own without a slot of its own: one at a time.

Tasks that are started in the body of a slot inherit it, and may be many. The first call takes the slot's place at the
provider; calls beside it are scheduled as any other. A call that outlives the body keeps the slot until it ends.

Without a lock: the list of a slot is emptied by the thread that decides, and an empty list means that one does.
"""

from loco_otel._core.ticket import Ticket


def take_cover(slot: Ticket) -> bool:
    """Return whether no call runs under a slot; then the caller must call `set_covered_call`."""
    # In one step, as several threads may be here.
    calls: list[Ticket | None] = slot.__dict__.setdefault("covered_calls", [None])
    try:
        call = calls.pop()
    except IndexError:
        return False
    if call is None or call.state.is_ended:
        return True
    calls.append(call)
    return False


def set_covered_call(slot: Ticket, call: Ticket | None) -> None:
    """Set the call that runs under a slot from now on until it ends; None if it did not begin."""
    if slot.covered_calls is not None:
        slot.covered_calls.append(call)


def transfer_slot(slot: Ticket) -> bool:
    """Let the call that runs under a slot end it, and return whether there is one."""
    calls = tuple(slot.covered_calls or ())
    call = calls[0] if calls else None
    if call is None or call.state.is_ended:
        return False
    call.host = slot
    slot.claim = None  # it is used, whatever contexts there are
    # It may have ended meanwhile, without the slot.
    return not call.state.is_ended
