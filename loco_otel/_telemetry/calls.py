"""What telemetry keeps for one call: it travels with the request, and is gone with it."""

from opentelemetry import context as current
from opentelemetry import trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanContext, SpanKind, Status, StatusCode, Tracer

from loco_otel._telemetry import attributes as key
from loco_otel.events import Outcome, Request, Waiting

ROOT = trace.set_span_in_context(INVALID_SPAN, Context())
"""A context without a span. Not empty: OpenTelemetry takes an empty one for the current context, and that is
somebody else's on the thread that happens to tell the listeners."""


class CallTrace:
    """One request's trace; callers put it into `Request.context`.

    Listeners are told one event at a time, so nothing here needs a lock.
    """

    __slots__ = (
        "__weakref__",
        "acquire",
        "call",
        "ends_at",
        "error",
        "links",
        "otel_context",
        "span",
        "waiting",
    )

    def __init__(self, otel_context: Context) -> None:
        self.otel_context = otel_context or ROOT
        """The caller's context; its span is the parent."""
        self.call: CallSpan | None = None
        """The span around the call, if it has one of ours: ended with the call's last event."""
        self.error: BaseException | None = None
        """What the call failed with; dropped at its last event, as the traceback holds callers' frames."""
        self.acquire: SpanContext | None = None
        """The latest acquire span, for others to link to."""
        self.waiting: Waiting | None = None
        """How things stood when this wait began."""
        self.links: list[Link] = []
        """To those that held the resource then."""
        self.span: Span | None = None
        """The acquire span, while it is kept open for the settlement."""
        self.ends_at = 0
        """When that span ended in truth, in nanoseconds since the epoch."""


class CallSpan:
    """The span around a call, open until `end`. It is current only where `context` is attached."""

    __slots__ = ("_open", "context")

    def __init__(self, span: Span) -> None:
        self.context = trace.set_span_in_context(span)
        """To attach for the time of the call; nothing is attached here."""
        self._open = [span]

    def end(self, error: BaseException | Outcome | None = None) -> None:
        """End the span, once: later calls do nothing.

        `error` is what the call failed with, or the outcome of an acquire that never let it go out.
        """
        try:
            # One step even when a finaliser ends what another thread is ending.
            span = self._open.pop()
        except IndexError:
            return
        if error is not None:
            name = error.value if isinstance(error, Outcome) else _qualified_name(type(error))
            span.set_attribute(key.ERROR_TYPE, name)
            span.set_status(Status(StatusCode.ERROR))
        span.end()


def start_call(tracer: Tracer, agent: str, *, provider: str | None = None, model: str | None = None) -> CallSpan | None:
    """Start the span `call {agent}`, or return None where the program has a span of its own or wants none."""
    if trace.get_current_span().get_span_context().is_valid or suppressed():
        return None
    span = tracer.start_span(f"call {agent}", kind=SpanKind.INTERNAL)
    if span.is_recording():
        span.set_attributes({key.AGENT: agent, key.AGENT_NAME: agent})
        if provider is not None:
            span.set_attribute(key.PROVIDER, provider)
        if model is not None:
            span.set_attribute(key.MODEL, model)
    return CallSpan(span)


def suppressed(context: Context | None = None) -> bool:
    """Tell whether `context`, by default the current one, is inside `suppress_instrumentation`."""
    return bool(current.get_value(_SUPPRESS_INSTRUMENTATION_KEY, context))


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
