"""What telemetry keeps for one call: it travels with the request, and is gone with it."""

from collections.abc import Mapping
from types import MappingProxyType

from opentelemetry import context as current
from opentelemetry import trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanContext, SpanKind, Status, StatusCode, Tracer

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry.foreign_instrumentors import find_outer_span, is_inference_span
from loco_otel._telemetry.inference import InferenceRequest, InferenceSpan
from loco_otel.events import BudgetExceeded, Request, Waiting

ROOT_CONTEXT = trace.set_span_in_context(INVALID_SPAN, Context())
"""A context without a span. Not empty: OpenTelemetry takes an empty one for the current context, and that is
somebody else's on the thread that happens to tell the listeners."""

_SUPPRESSION_KEYS = (_SUPPRESS_INSTRUMENTATION_KEY, "suppress_instrumentation")
"""OpenTelemetry has two keys for it."""


_EMPTY_BODY: Mapping[str, object] = MappingProxyType({})


class CallTrace:
    """One request's trace; callers put it into `Request.context`.

    Listeners are told one event at a time, so nothing here needs a lock. What most requests have none of has its
    default on the class.
    """

    call_span: "CallSpan | None" = None
    """The span around the call, if it has one of ours: ended with the call's last event."""
    inference_span: InferenceSpan | None = None
    """The inference span, once the slot is granted, if it is ours to make."""
    owns_inference_span: bool = False
    """Whether it is."""
    foreign_span: Span | None = None
    """Somebody else's inference span, where it is known."""
    inference_request: InferenceRequest | None = None
    """What a patched call asks; None for a slot of the program's own."""
    error_type: str | None = None
    """What the call failed with."""
    acquire_span_context: SpanContext | None = None
    """The latest acquire span, for others to link to."""
    waiting_event: Waiting | None = None
    """How things stood when this wait began."""
    exceeded_event: BudgetExceeded | None = None
    """The budgets that had no room for it, until its acquire span tells of them."""
    links: tuple[Link, ...] = ()
    """To those that held the resource then."""
    total_waited: float = 0.0
    """Seconds, over all waits."""
    resend_count: int = 0
    """How many times a pause was followed by another grant."""
    acquire_span: Span | None = None
    """The acquire span, while it is kept open for the settlement."""
    acquire_span_end: int = 0
    """When that span ended in truth, in nanoseconds since the epoch."""

    def __init__(self, otel_context: Context, tracer: Tracer | None = None) -> None:
        self.caller_context = self.otel_context = otel_context or ROOT_CONTEXT
        """The caller's context, then that of the span around the call; its span is the parent."""
        self.is_suppressed = is_suppressed(self.otel_context)
        """Inside `suppress_instrumentation`: nothing is told of the call."""
        self._tracer = tracer

    def begin_call(self, agent: str, subject: InferenceRequest, *, has_sdk_span: bool) -> None:
        """Make this the trace of a patched call, with a span around it where the program has none.

        Args:
            agent: who calls.
            subject: what is asked of whom.
            has_sdk_span: whether the SDK, or somebody between it and us, makes the inference span.

        """
        if self.is_suppressed:
            return
        self.inference_request = subject
        span = trace.get_current_span(self.otel_context)
        others = find_outer_span(span, self.otel_context)
        self.owns_inference_span = not has_sdk_span and not others.is_present
        self.foreign_span = others.span
        if self._tracer is not None and not span.get_span_context().is_valid:
            self.call_span = start_call_span(self._tracer, agent, provider=subject.provider, model=subject.model)
            self.otel_context = self.call_span.context

    def begin_inference(self, agent: str, now: float) -> Context:
        """Begin the inference span, if it is ours to make; return the context for the SDK to work in."""
        subject = self.inference_request
        if subject is None:
            return self.otel_context
        # The scheduler remembers whom it served, for its index of fairness: not what they asked.
        self.inference_request = subject._replace(body=_EMPTY_BODY)
        if not self.owns_inference_span:
            return self.otel_context
        self.inference_span = InferenceSpan(self._tracer, subject, agent, self.otel_context, now)
        return self.inference_span.context

    def set_sent_model(self, model: str) -> None:
        """Note that the call is sent with another model than the one that was asked for."""
        if self.inference_request is not None:
            self.inference_request = self.inference_request._replace(model=model)

    def add_wait(self, seconds: float) -> None:
        """Note a wait that ended with a grant. At once, unlike all else: their span may end before ours are made."""
        self.total_waited += seconds
        if self.foreign_span is not None and self.foreign_span.is_recording():
            self.foreign_span.set_attribute(key.WAIT_DURATION, self.total_waited)

    def adopt_inner_span(self) -> None:
        """Take the current span for theirs, where it is an inference span that began after the grant."""
        if self.owns_inference_span or self.is_suppressed or self.foreign_span is not None:
            return
        span = trace.get_current_span()
        if is_inference_span(span):
            self.foreign_span = span
            span.set_attribute(key.WAIT_DURATION, self.total_waited)

    def record_error(self, error: BaseException) -> None:
        """Note what the call failed with."""
        self.error_type = _get_qualified_name(type(error))


class CallSpan:
    """The span around a call, open until `end`. It is current only where `context` is attached."""

    __slots__ = ("_open_spans", "context")

    def __init__(self, span: Span) -> None:
        self.context = trace.set_span_in_context(span)
        """To attach for the time of the call; nothing is attached here."""
        self._open_spans = [span]

    def end_span(self, error_type: str | None = None, ended_at: int | None = None) -> None:
        """End the span, once: later calls do nothing.

        Args:
            error_type: what the call failed with, or the outcome of an acquire that never let it go out.
            ended_at: nanoseconds since the epoch; now, where it is not said.

        """
        try:
            # One step even when a finaliser ends what another thread is ending.
            span = self._open_spans.pop()
        except IndexError:
            return
        if error_type is not None:
            span.set_attribute(key.ERROR_TYPE, error_type)
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended_at)


def start_call_span(tracer: Tracer, agent: str, *, provider: str, model: str | None) -> CallSpan:
    """Start the span `call {agent}`."""
    attributes = {key.AGENT: agent, key.AGENT_NAME: agent, key.PROVIDER: provider}
    if model is not None:
        attributes[key.MODEL] = model
    return CallSpan(tracer.start_span(f"call {agent}", kind=SpanKind.INTERNAL, attributes=attributes))


def is_suppressed(context: Context | None = None) -> bool:
    """Tell whether `context`, by default the current one, is inside `suppress_instrumentation`."""
    context = current.get_current() if context is None else context
    return bool(context.get(_SUPPRESSION_KEYS[0]) or context.get(_SUPPRESSION_KEYS[1]))


def get_call_trace(request: Request) -> CallTrace | None:
    """Return the request's trace, where it carries one."""
    return request.context if isinstance(request.context, CallTrace) else None


def format_resource_name(request: Request) -> str:
    """Name what is asked for. A set has one name, whatever its order, and counts once: sums stay right."""
    resources = request.resources
    return resources[0] if len(resources) == 1 else "+".join(sorted(resources))


def _get_qualified_name(error: type[BaseException]) -> str:
    """`error.type` of an exception class, as OpenTelemetry's Python SDK writes it: bare when built in."""
    name = error.__qualname__
    return name if error.__module__ == "builtins" else f"{error.__module__}.{name}"
