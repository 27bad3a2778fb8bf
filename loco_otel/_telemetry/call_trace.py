"""What telemetry keeps for one call: it travels with the request, and is gone with it."""

from collections.abc import Mapping
from types import MappingProxyType

from opentelemetry import context as current
from opentelemetry import trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanContext, SpanKind, Status, StatusCode, Tracer

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry.foreign_instrumentors import above, is_inference
from loco_otel._telemetry.inference import Inference, Subject
from loco_otel.events import BudgetExceeded, Request, Waiting

ROOT = trace.set_span_in_context(INVALID_SPAN, Context())
"""A context without a span. Not empty: OpenTelemetry takes an empty one for the current context, and that is
somebody else's on the thread that happens to tell the listeners."""

_SUPPRESSED = (_SUPPRESS_INSTRUMENTATION_KEY, "suppress_instrumentation")
"""OpenTelemetry has two keys for it."""


_FORGOTTEN: Mapping[str, object] = MappingProxyType({})


class CallTrace:
    """One request's trace; callers put it into `Request.context`.

    Listeners are told one event at a time, so nothing here needs a lock. What most requests have none of has its
    default on the class.
    """

    call: "CallSpan | None" = None
    """The span around the call, if it has one of ours: ended with the call's last event."""
    inference: Inference | None = None
    """The inference span, once the slot is granted, if it is ours to make."""
    ours: bool = False
    """Whether it is."""
    theirs: Span | None = None
    """Somebody else's inference span, where it is known."""
    subject: Subject | None = None
    """What a patched call asks; None for a slot of the program's own."""
    error_type: str | None = None
    """What the call failed with."""
    acquire: SpanContext | None = None
    """The latest acquire span, for others to link to."""
    waiting: Waiting | None = None
    """How things stood when this wait began."""
    exceeded: BudgetExceeded | None = None
    """The budgets that had no room for it, until its acquire span tells of them."""
    links: tuple[Link, ...] = ()
    """To those that held the resource then."""
    waited: float = 0.0
    """Seconds, over all waits."""
    resends: int = 0
    """How many times a pause was followed by another grant."""
    span: Span | None = None
    """The acquire span, while it is kept open for the settlement."""
    ends_at: int = 0
    """When that span ended in truth, in nanoseconds since the epoch."""

    def __init__(self, otel_context: Context, tracer: Tracer | None = None) -> None:
        self.caller = self.otel_context = otel_context or ROOT
        """The caller's context, then that of the span around the call; its span is the parent."""
        self.silent = suppressed(self.otel_context)
        """Inside `suppress_instrumentation`: nothing is told of the call."""
        self._tracer = tracer

    def concern(self, agent: str, subject: Subject, *, told_below: bool) -> None:
        """Make this the trace of a patched call, with a span around it where the program has none.

        Args:
            agent: who calls.
            subject: what is asked of whom.
            told_below: whether the SDK, or somebody between it and us, makes the inference span.

        """
        if self.silent:
            return
        self.subject = subject
        span = trace.get_current_span(self.otel_context)
        others = above(span, self.otel_context)
        self.ours = not told_below and not others.tell
        self.theirs = others.span
        if self._tracer is not None and not span.get_span_context().is_valid:
            self.call = start_call(self._tracer, agent, provider=subject.provider, model=subject.model)
            self.otel_context = self.call.context

    def begin(self, agent: str, now: float) -> Context:
        """Begin the inference span, if it is ours to make; return the context for the SDK to work in."""
        subject = self.subject
        if subject is None:
            return self.otel_context
        # The scheduler remembers whom it served, for its index of fairness: not what they asked.
        self.subject = subject._replace(body=_FORGOTTEN)
        if not self.ours:
            return self.otel_context
        self.inference = Inference(self._tracer, subject, agent, self.otel_context, now)
        return self.inference.context

    def go_with(self, model: str) -> None:
        """Note that the call is sent with another model than the one that was asked for."""
        if self.subject is not None:
            self.subject = self.subject._replace(model=model)

    def waited_for(self, seconds: float) -> None:
        """Note a wait that ended with a grant. At once, unlike all else: their span may end before ours are made."""
        self.waited += seconds
        if self.theirs is not None and self.theirs.is_recording():
            self.theirs.set_attribute(key.WAIT_DURATION, self.waited)

    def look_below(self) -> None:
        """Take the current span for theirs, where it is an inference span that began after the grant."""
        if self.ours or self.silent or self.theirs is not None:
            return
        span = trace.get_current_span()
        if is_inference(span):
            self.theirs = span
            span.set_attribute(key.WAIT_DURATION, self.waited)

    def fail(self, error: BaseException) -> None:
        """Note what the call failed with."""
        self.error_type = _qualified_name(type(error))


class CallSpan:
    """The span around a call, open until `end`. It is current only where `context` is attached."""

    __slots__ = ("_open", "context")

    def __init__(self, span: Span) -> None:
        self.context = trace.set_span_in_context(span)
        """To attach for the time of the call; nothing is attached here."""
        self._open = [span]

    def end(self, error_type: str | None = None, ended_at: int | None = None) -> None:
        """End the span, once: later calls do nothing.

        Args:
            error_type: what the call failed with, or the outcome of an acquire that never let it go out.
            ended_at: nanoseconds since the epoch; now, where it is not said.

        """
        try:
            # One step even when a finaliser ends what another thread is ending.
            span = self._open.pop()
        except IndexError:
            return
        if error_type is not None:
            span.set_attribute(key.ERROR_TYPE, error_type)
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended_at)


def start_call(tracer: Tracer, agent: str, *, provider: str, model: str | None) -> CallSpan:
    """Start the span `call {agent}`."""
    attributes = {key.AGENT: agent, key.AGENT_NAME: agent, key.PROVIDER: provider}
    if model is not None:
        attributes[key.MODEL] = model
    return CallSpan(tracer.start_span(f"call {agent}", kind=SpanKind.INTERNAL, attributes=attributes))


def suppressed(context: Context | None = None) -> bool:
    """Tell whether `context`, by default the current one, is inside `suppress_instrumentation`."""
    context = current.get_current() if context is None else context
    return bool(context.get(_SUPPRESSED[0]) or context.get(_SUPPRESSED[1]))


def trace_of(request: Request) -> CallTrace | None:
    """Return the request's trace, where it carries one."""
    return request.context if isinstance(request.context, CallTrace) else None


def resource_of(request: Request) -> str:
    """Name what is asked for. A set has one name, whatever its order, and counts once: sums stay right."""
    resources = request.resources
    return resources[0] if len(resources) == 1 else "+".join(sorted(resources))


def _qualified_name(error: type[BaseException]) -> str:
    """`error.type` of an exception class, as OpenTelemetry's Python SDK writes it: bare when built in."""
    name = error.__qualname__
    return name if error.__module__ == "builtins" else f"{error.__module__}.{name}"
