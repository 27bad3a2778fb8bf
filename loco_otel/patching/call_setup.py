"""From a request to the call that is to be scheduled, and what its attempts tell."""

from typing import Any

from loco_otel._core.ticket import Ticket
from loco_otel._runtime import process
from loco_otel._runtime.identity import resolve_identity
from loco_otel._telemetry import CallTrace
from loco_otel._waiting import ownership
from loco_otel.patching.accounting import AccountedCall
from loco_otel.patching.adapter import Adapter
from loco_otel.patching.call import Call


def start_call(adapter: Adapter, client: Any, options: Any, wrapped: Any) -> Call | None:
    """Make the call to be scheduled; None when this request is not for us, and when we fail to tell.

    Under a slot of the program's own it is not scheduled again, but told and paid for.
    """
    covering = ownership.current_ticket()
    if covering is not None and (covering.request.settles or covering.is_nested):
        return None
    try:
        description = adapter.describe_call(client, options)
        if description is None:
            return None
        runtime = process.get_runtime()
        runtime.detect_otel_sdk()
        weighs = runtime.is_weight_needed
        if covering is not None and not weighs:
            return None
        call: Call
        caller = resolve_identity(runtime.default_agent)
        url = description.url
        resources = runtime.router.route_call(
            description.provider, description.model, *((None, None) if url is None else (url.host, url.port))
        )
        if weighs:
            inside = covering is not None
            call = AccountedCall(
                runtime, adapter, description, caller, resources=resources, wrapped=wrapped, is_nested=inside
            )
        else:
            call = Call(runtime, adapter, description, caller, resources=resources, engine=runtime.engine)
        if runtime.settings.stream_usage:
            call.extended_request = adapter.request_usage(options)
        return call  # noqa: TRY300 - nothing else can fail
    except Exception:
        process.record_fault("describing a call")
        return None


def record_retry_wait(ticket: Ticket) -> None:
    """Note the wait that followed a pause."""
    trace = ticket.request.context
    if isinstance(trace, CallTrace):
        trace.add_wait(ticket.granted_at - ticket.waiting_since)


def set_wait_on_inner_span(ticket: Ticket) -> None:
    """Tell whoever makes the call's inference span below us how long it has waited."""
    trace = ticket.request.context
    if isinstance(trace, CallTrace):
        trace.adopt_inner_span()
