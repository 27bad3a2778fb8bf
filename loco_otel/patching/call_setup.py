"""From a request to the call that is to be scheduled, and what its attempts tell."""

from typing import Any

from loco_otel._core.ticket import Ticket
from loco_otel._runtime import process
from loco_otel._runtime.identity import who
from loco_otel._telemetry import CallTrace
from loco_otel._waiting import ownership
from loco_otel.patching.accounting import WeighedCall
from loco_otel.patching.adapter import Adapter
from loco_otel.patching.call import Call


def prepare(adapter: Adapter, client: Any, options: Any, wrapped: Any) -> Call | None:
    """Make the call to be scheduled; None when this request is not for us, and when we fail to tell.

    Under a slot of the program's own it is not scheduled again, but told and paid for.
    """
    covering = ownership.covering()
    if covering is not None and (covering.request.settles or covering.inside):
        return None
    try:
        description = adapter.describe(client, options)
        if description is None:
            return None
        runtime = process.current()
        runtime.look_for_sdk()
        weighs = runtime.weighs
        if covering is not None and not weighs:
            return None
        call: Call
        caller = who(runtime.default_agent)
        url = description.url
        resources = runtime.router.resources(
            description.provider, description.model, *((None, None) if url is None else (url.host, url.port))
        )
        if weighs:
            inside = covering is not None
            call = WeighedCall(
                runtime, adapter, description, caller, resources=resources, wrapped=wrapped, inside=inside
            )
        else:
            call = Call(runtime, adapter, description, caller, resources=resources, engine=runtime.engine)
        if runtime.settings.stream_usage:
            call.asked = adapter.ask_usage(options)
        return call  # noqa: TRY300 - nothing else can fail
    except Exception:
        process.fault("describing a call")
        return None


def let_in_again(ticket: Ticket) -> None:
    """Note the wait that followed a pause."""
    trace = ticket.request.context
    if isinstance(trace, CallTrace):
        trace.waited_for(ticket.granted_at - ticket.waiting_since)


def find_below(ticket: Ticket) -> None:
    """Tell whoever makes the call's inference span below us how long it has waited."""
    trace = ticket.request.context
    if isinstance(trace, CallTrace):
        trace.look_below()
