"""The telemetry state of one call, which is owned by its request."""

from collections.abc import Mapping
from types import MappingProxyType

from opentelemetry import context as current
from opentelemetry import trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanContext, SpanKind, Status, StatusCode

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry.current_context import get_span
from loco_otel._telemetry.foreign_instrumentors import find_outer_span, is_inference_span
from loco_otel._telemetry.inference import InferenceRequest, InferenceSpan
from loco_otel._telemetry.span_starter import SpanStarter
from loco_otel.events import BudgetExceeded, LimitDecided, Request, Waiting

ROOT_CONTEXT = trace.set_span_in_context(INVALID_SPAN, Context())
"""A context without a span. Not empty: OpenTelemetry replaces an empty one by the current context, which on the thread
that delivers events belongs to another call.
"""

_SUPPRESSION_KEYS = (_SUPPRESS_INSTRUMENTATION_KEY, "suppress_instrumentation")
"""OpenTelemetry uses two keys for it."""


_EMPTY_BODY: Mapping[str, object] = MappingProxyType({})
_NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})


class CallTrace:
    """The trace of one request; stored in `Request.context`.

    Events are delivered one at a time, so no lock is needed. Fields that most requests do not use have their default on
    the class.
    """

    call_span: "CallSpan | None" = None
    """The span around the call, if loco-otel created one; ended with the call's last event."""
    inference_span: InferenceSpan | None = None
    """The inference span, once the slot is granted, if loco-otel creates it."""
    owns_inference_span: bool = False
    """Whether loco-otel creates the inference span."""
    foreign_span: Span | None = None
    """The inference span of another instrumentation, if known."""
    inference_request: InferenceRequest | None = None
    """The request of a patched call; None for a `slot()`."""
    error_type: str | None = None
    """The error with which the call failed."""
    acquire_span_context: SpanContext | None = None
    """The latest acquire span, for links from other spans."""
    waiting_event: Waiting | None = None
    """The state of the queue when this wait began."""
    exceeded_event: BudgetExceeded | None = None
    """Budget rejections that the acquire span has not recorded yet."""
    limit_events: tuple[LimitDecided, ...] = ()
    """Decisions of limits that the acquire span has not recorded yet."""
    caller_attributes: Mapping[str, str] = _NO_ATTRIBUTES
    """Team, workflow and conversation of the caller, as far as they are known."""
    total_waited: float = 0.0
    """Seconds of all waits."""
    resend_count: int = 0
    """Number of back-offs that were followed by another grant."""
    acquire_span: Span | None = None
    """The acquire span, while it is kept open for the settlement."""
    acquire_span_end: int = 0
    """The actual end of that span, in nanoseconds since the epoch."""

    def __init__(self, otel_context: Context, tracer: SpanStarter | None = None) -> None:
        self.caller_context = self.otel_context = otel_context or ROOT_CONTEXT
        """The caller's context, or that of the span around the call; its span is the parent."""
        # Logfire suppresses others inside its own inference spans, so that they create no second one.
        self.is_suppressed = is_suppressed(self.otel_context) and not is_inference_span(
            trace.get_current_span(self.otel_context)
        )
        """True inside `suppress_instrumentation`: the call emits no telemetry."""
        self._tracer = tracer

    def set_caller(
        self,
        tenant: str | None,
        team: str | None,
        workflow: str | None,
        session: str | None,
        run: str | None = None,
    ) -> None:
        """Set the caller of the request, for all its spans."""
        attributes = {}
        if tenant is not None:
            attributes[key.TENANT] = tenant
        if team is not None:
            attributes[key.TEAM] = team
        if workflow is not None:
            attributes[key.WORKFLOW] = workflow
        if session is not None:
            attributes[key.CONVERSATION] = session
        if run is not None:
            attributes[key.RUN] = run
        self.caller_attributes = attributes

    def begin_call(self, agent: str, subject: InferenceRequest, *, has_sdk_span: bool) -> None:
        """Start the trace of a patched call, with a span around it if the program has none.

        Args:
            agent: the agent of the call.
            subject: the request and its server.
            has_sdk_span: whether the SDK, or an instrumentation between it and loco-otel, creates the inference span.

        """
        if self.is_suppressed:
            return
        self.inference_request = subject
        span = get_span(self.otel_context)
        others = find_outer_span(span, self.otel_context)
        self.owns_inference_span = not has_sdk_span and not others.is_present
        self.foreign_span = others.span
        if self._tracer is not None and not span.get_span_context().is_valid:
            attributes = {**self.caller_attributes, key.PROVIDER: subject.provider}
            self.call_span = start_call_span(self._tracer, agent, attributes, subject.model)
            self.otel_context = self.call_span.context

    def begin_inference(self, agent: str, now: float) -> Context:
        """Start the inference span if loco-otel creates it; return the context in which the SDK runs."""
        subject = self.inference_request
        if subject is None:
            return self.otel_context
        # The scheduler keeps served requests for its fairness index, but not their bodies.
        operation, provider, model, url, _ = subject
        self.inference_request = InferenceRequest(operation, provider, model, url, _EMPTY_BODY)
        if not self.owns_inference_span:
            return self.otel_context
        self.inference_span = InferenceSpan(
            self._tracer, subject, agent, self.caller_attributes, self.otel_context, now=now
        )
        return self.inference_span.context

    def set_sent_model(self, model: str) -> None:
        """Set the model with which the call is sent instead of the requested one."""
        if self.inference_request is not None:
            self.inference_request = self.inference_request._replace(model=model)

    def add_wait(self, seconds: float) -> None:
        """Add a wait that ended with a grant. Called at once, as the outer span may end before batched delivery."""
        self.total_waited += seconds
        if self.foreign_span is not None and self.foreign_span.is_recording():
            self.foreign_span.set_attribute(key.WAIT_DURATION, self.total_waited)

    def adopt_inner_span(self) -> None:
        """Store the current span as the inference span of another instrumentation, if it started after the grant."""
        if self.owns_inference_span or self.is_suppressed or self.foreign_span is not None:
            return
        span = trace.get_current_span()
        if is_inference_span(span):
            self.foreign_span = span
            span.set_attribute(key.WAIT_DURATION, self.total_waited)

    def record_error(self, error: BaseException) -> None:
        """Store the error with which the call failed."""
        self.error_type = _get_qualified_name(type(error))


class CallSpan:
    """The span around a call, open until `end_span`. It is current only where `context` is attached."""

    __slots__ = ("_open_spans", "context")

    def __init__(self, span: Span) -> None:
        self.context = trace.set_span_in_context(span)
        """The context for the duration of the call; this class does not attach it."""
        self._open_spans = [span]

    def end_span(self, error_type: str | None = None, ended_at: int | None = None) -> None:
        """End the span. Idempotent.

        Args:
            error_type: the class of the call's error, or the outcome of a rejected acquire.
            ended_at: nanoseconds since the epoch; None for now.

        """
        try:
            # Atomic, even if a finaliser ends it concurrently with another thread.
            span = self._open_spans.pop()
        except IndexError:
            return
        if error_type is not None:
            span.set_attribute(key.ERROR_TYPE, error_type)
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended_at)


def start_call_span(tracer: SpanStarter, agent: str, attributes: dict[str, str], model: str | None) -> CallSpan:
    """Start the span `call {agent}` with further attributes."""
    attributes[key.AGENT] = agent
    if model is not None:
        attributes[key.MODEL] = model
    return CallSpan(tracer.start_span(f"call {agent}", kind=SpanKind.INTERNAL, attributes=attributes))


def is_suppressed(context: Context | None = None) -> bool:
    """Return whether `context`, by default the current one, is inside `suppress_instrumentation`."""
    context = current.get_current() if context is None else context
    return bool(context.get(_SUPPRESSION_KEYS[0]) or context.get(_SUPPRESSION_KEYS[1]))


def get_call_trace(request: Request) -> CallTrace | None:
    """Return the request's trace; None if it has none."""
    return request.context if isinstance(request.context, CallTrace) else None


def is_request_suppressed(request: Request) -> bool:
    """Return whether a request emits no telemetry, as it was made inside `suppress_instrumentation`."""
    call = request.context
    return isinstance(call, CallTrace) and call.is_suppressed


def format_resource_name(request: Request) -> str:
    """Return the name of the requested resources. A set has one name in any order and counts once."""
    resources = request.resources
    return resources[0] if len(resources) == 1 else "+".join(sorted(resources))


def _get_qualified_name(error: type[BaseException]) -> str:
    """`error.type` of an exception class, as OpenTelemetry's Python SDK writes it: bare when built in."""
    name = error.__qualname__
    return name if error.__module__ == "builtins" else f"{error.__module__}.{name}"
