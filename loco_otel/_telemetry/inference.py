"""The inference span of a call, as OpenTelemetry's GenAI conventions have it.

It begins when the slot is granted and ends with the body, so that the time in our queue is not taken for the
provider's. It is made only where nobody else makes one, see `company.py`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from loco_otel._telemetry import attributes as key
from loco_otel.events import Spending

MAX_OUTPUT_FIELDS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
"""Where a request's body says how many tokens may be generated; the first that is there counts."""
_NUMBER_FIELDS = (
    (key.MAX_TOKENS, MAX_OUTPUT_FIELDS, int),
    (key.TEMPERATURE, ("temperature",), float),
    (key.TOP_P, ("top_p",), float),
    (key.TOP_K, ("top_k",), int),
    (key.FREQUENCY_PENALTY, ("frequency_penalty",), float),
    (key.PRESENCE_PENALTY, ("presence_penalty",), float),
    (key.SEED, ("seed",), int),
)
"""What of a request's body goes on the span, under which names the APIs have it, and its type. Numbers only: stop
sequences and the user's name are the program's text."""


_SCHEME_PORTS = {"http": 80, "https": 443}


class InferenceRequest(NamedTuple):
    """What a call asks, and of whom."""

    operation: str
    provider: str
    model: str | None
    url: Any
    """Where it is sent, with `host`, `port` and `scheme`; None where that is not known."""
    body: Mapping[str, object]
    """The JSON that is sent."""

    @property
    def server(self) -> tuple[str, int | None] | None:
        """Host and port of it."""
        url = self.url
        return (url.host, url.port or _SCHEME_PORTS.get(url.scheme)) if url is not None and url.host else None


class InferenceSpan:
    """One call's inference span, and what its metrics need.

    Without a tracer there is no span, and only the times are kept.
    """

    __slots__ = ("_open_spans", "context", "first_chunk_at", "metric_labels", "span", "started_at")

    def __init__(
        self, tracer: Tracer | None, subject: InferenceRequest, agent: str, parent: Context, now: float
    ) -> None:
        self.started_at = now
        """By the scheduler's clock, in seconds."""
        self.first_chunk_at: float | None = None
        self.metric_labels: dict[str, str | int] | None = None
        """What its metrics have in common, once it is answered."""
        self.span: Span | None = None
        self.context = parent
        """To be attached while the SDK works; nothing is attached here."""
        self._open_spans: list[Span] = []
        if tracer is not None:
            name = subject.operation if subject.model is None else f"{subject.operation} {subject.model}"
            self.span = span = tracer.start_span(
                name, parent, SpanKind.CLIENT, _build_request_attributes(subject, agent)
            )
            self.context = trace.set_span_in_context(span, parent)
            self._open_spans.append(span)

    def record_response(self, spending: Spending) -> None:
        """Note what the provider said."""
        span = self.span
        if span is None or not span.is_recording():
            return
        attributes: dict[str, AttributeValue] = {}
        if spending.model is not None:
            attributes[key.RESPONSE_MODEL] = spending.model
        if spending.response_id is not None:
            attributes[key.RESPONSE_ID] = spending.response_id
        if spending.finish_reasons:
            attributes[key.FINISH_REASONS] = spending.finish_reasons
        usage = spending.usage
        # An estimate is no usage: it stands in the event `loco.spend`, as what it is.
        if usage is not None and not usage.estimated:
            attributes[key.INPUT_TOKENS] = usage.input_tokens
            attributes[key.OUTPUT_TOKENS] = usage.output_tokens
            if usage.cache_read_tokens is not None:
                attributes[key.CACHE_READ_TOKENS] = usage.cache_read_tokens
            if usage.cache_write_tokens is not None:
                attributes[key.CACHE_WRITE_TOKENS] = usage.cache_write_tokens
            if usage.reasoning_tokens is not None:
                attributes[key.REASONING_TOKENS] = usage.reasoning_tokens
        if self.first_chunk_at is not None:
            attributes[key.TIME_TO_FIRST_CHUNK] = self.first_chunk_at - self.started_at
        span.set_attributes(attributes)

    def end_span(self, error_type: str | None, resends: int, ended_at: int) -> None:
        """End the span, once: later calls do nothing.

        Args:
            error_type: what the call failed with, if it did.
            resends: how many times its request was sent again.
            ended_at: nanoseconds since the epoch.

        """
        try:
            # One step, even when a finaliser ends what another thread is ending.
            span = self._open_spans.pop()
        except IndexError:
            return
        if resends:
            span.set_attribute(key.RESEND_COUNT, resends)
        if error_type is not None:
            span.set_attribute(key.ERROR_TYPE, error_type)
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended_at)


def _build_request_attributes(subject: InferenceRequest, agent: str) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        key.OPERATION: subject.operation,
        key.PROVIDER: subject.provider,
        key.AGENT: agent,
        key.AGENT_NAME: agent,
    }
    if subject.model is not None:
        attributes[key.MODEL] = subject.model
    server = subject.server
    if server is not None:
        host, port = server
        attributes[key.SERVER_ADDRESS] = host
        if port is not None:
            attributes[key.SERVER_PORT] = port
    body = subject.body
    if body.get("stream") is True:
        attributes[key.STREAM] = True
    for name, fields, kind in _NUMBER_FIELDS:
        for field in fields:
            value = body.get(field)
            if isinstance(value, int | float) and not isinstance(value, bool):
                attributes[name] = kind(value)
                break
    choices = body.get("n")
    if isinstance(choices, int) and choices != 1:
        attributes[key.CHOICE_COUNT] = choices
    return attributes
