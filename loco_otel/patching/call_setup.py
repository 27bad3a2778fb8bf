"""The construction of a `Call` from an SDK's request, and what its attempts record."""

from typing import Any

from loco_otel._core.ticket import Ticket
from loco_otel._engine.base import SlotSource
from loco_otel._engine.nested import NestedEngine
from loco_otel._runtime import process
from loco_otel._runtime.agent_readers import replace_surrogates
from loco_otel._runtime.identity import Identity, resolve_identity
from loco_otel._runtime.runtime import Runtime
from loco_otel._telemetry import CallTrace, InferenceRequest
from loco_otel._telemetry.foreign_instrumentors import has_foreign_wrapper
from loco_otel._waiting import cover, ownership
from loco_otel.patching.accounting import CallAccounting
from loco_otel.patching.adapter import Adapter, CallDescription
from loco_otel.patching.call import Call
from loco_otel.patching.dialects.provider_hosts import find_configured_provider
from loco_otel.patching.dialects.tool_calls import read_tool_calls


def start_call(adapter: Adapter, client: Any, options: Any, wrapped: Any) -> Call | None:
    """Return the call to schedule; None if the request calls no model, is scheduled already, or after a fault of ours.

    Under a slot of the program's own it is not queued again, but traced and billed; see `_waiting/cover.py`.
    """
    outer = ownership.current_ticket()
    if outer is not None and (outer.request.settles or outer.is_nested):
        return None
    is_covered = False
    try:
        described = adapter.describe_call(client, options)
        if described is None:
            return None
        runtime = process.get_runtime()
        description = _complete_description(described, runtime)
        runtime.detect_otel_sdk()
        is_weighed = runtime.is_weight_needed
        caller = resolve_identity(runtime.default_agent)
        url = description.url
        resources = runtime.router.route_call(
            description.provider, description.model, *((None, None) if url is None else (url.host, url.port))
        )
        engine: SlotSource = runtime.engine
        accounting = trace = None
        is_covered = outer is not None and cover.take_cover(outer)
        if is_covered:
            engine = NestedEngine(runtime.engine)
        if is_weighed:
            accounting = CallAccounting(runtime, adapter, description, caller, resources)
            trace = _start_trace(runtime, description, caller, wrapped)
        call = Call(
            runtime,
            adapter,
            description,
            caller,
            resources=resources,
            engine=engine,
            accounting=accounting,
            trace=trace,
            is_nested=is_covered,
            tool_calls=read_tool_calls(description.body) if runtime.governor.counts_tool_calls else (),
        )
        if runtime.settings.stream_usage:
            call.extended_request = adapter.request_usage(options)
        if outer is not None and is_covered:
            cover.set_covered_call(outer, call.ticket)
        return call  # noqa: TRY300 - nothing else can fail
    except Exception:
        if outer is not None and is_covered:
            cover.set_covered_call(outer, None)
        process.record_fault("describing a call")
        return None


def _complete_description(description: CallDescription, runtime: Runtime) -> CallDescription:
    if description.model is not None and not description.model.isascii():
        # Once, at the door: exporters lose a whole batch for one lone surrogate.
        description = description._replace(model=replace_surrogates(description.model))
    providers = runtime.settings.providers
    provider = find_configured_provider(providers, description.url) if providers else None
    return description if provider is None else description._replace(provider=provider)


def record_retry_wait(ticket: Ticket) -> None:
    """Add the wait that followed a retry's pause to the call's trace."""
    trace = ticket.request.context
    if isinstance(trace, CallTrace):
        trace.add_wait(ticket.granted_at - ticket.waiting_since)


def set_wait_on_inner_span(ticket: Ticket) -> None:
    """Set the call's wait on an inference span that an instrumentor below our wrapper has begun."""
    trace = ticket.request.context
    if isinstance(trace, CallTrace):
        trace.adopt_inner_span()


def _start_trace(runtime: Runtime, description: CallDescription, caller: Identity, wrapped: Any) -> CallTrace | None:
    trace = runtime.capture_trace(caller)
    if trace is not None:
        provider, operation, model, body, url, has_sdk_span, _ = description
        subject = InferenceRequest(operation, provider, model, url, body)
        trace.begin_call(caller.agent, subject, has_sdk_span=has_sdk_span or has_foreign_wrapper(wrapped))
    return trace
