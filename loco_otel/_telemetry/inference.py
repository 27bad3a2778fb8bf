"""The inference span of a call, by OpenTelemetry's GenAI conventions.

It starts when the slot is granted and ends with the response body, so queue time is not part of the provider's
latency. It is created only if no other instrumentation does, see `foreign_instrumentors.py`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry.span_starter import SpanStarter
from loco_otel.events import Spending
from loco_otel.money import MICRO, REPORTED_CHARGE

MAX_OUTPUT_FIELDS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
"""Fields of a request's body with the limit of output tokens; the first one present counts."""
_NUMBER_FIELDS = (
    (key.MAX_TOKENS, MAX_OUTPUT_FIELDS, int),
    (key.TEMPERATURE, ("temperature",), float),
    (key.TOP_P, ("top_p",), float),
    (key.TOP_K, ("top_k",), int),
    (key.FREQUENCY_PENALTY, ("frequency_penalty",), float),
    (key.PRESENCE_PENALTY, ("presence_penalty",), float),
    (key.SEED, ("seed",), int),
)
"""Attributes taken from a request's body, their field names and types. Numbers only: stop sequences and user names are
text of the program.
"""


_WORD_FIELDS = (
    (key.REASONING_LEVEL, (("reasoning_effort",), ("reasoning", "effort"), ("output_config", "effort"))),
    (key.PREVIOUS_RESPONSE, (("previous_response_id",),)),
)
"""Attributes whose values are a provider's words and ids, and their fields; no text of the program."""
_FORMAT_FIELDS = (("response_format", "type"), ("text", "format", "type"))
_TIERED_PROVIDERS = frozenset({"openai", "azure.ai.openai"})
"""The conventions define a service tier for these."""
_MAX_WORD = 200

_READ_FIELDS = frozenset(
    (
        *(field for _, fields, _ in _NUMBER_FIELDS for field in fields),
        *(path[0] for _, paths in _WORD_FIELDS for path in paths),
        *(path[0] for path in _FORMAT_FIELDS),
        *("n", "service_tier", "stream"),
    )
)
"""All fields of a body that become attributes; most requests have one or none."""

_SCHEME_PORTS = {"http": 80, "https": 443}

Server: TypeAlias = tuple[str, int | None]
"""Host and port."""


class InferenceRequest(NamedTuple):
    """The request of a call and its server."""

    operation: str
    provider: str
    model: str | None
    url: Any
    """The server, with `host`, `port` and `scheme`; None if unknown."""
    body: Mapping[str, object]
    """The JSON body that is sent."""

    @property
    def server(self) -> Server | None:
        """Host and port of the server."""
        url = self.url
        return (url.host, url.port or _SCHEME_PORTS.get(url.scheme)) if url is not None and url.host else None


class InferenceSpan:
    """The inference span of one call, and the data for its metrics.

    Without a tracer it has no span, and only stores the times.
    """

    __slots__ = (
        "_has_tiers",
        "_open_spans",
        "answered_model",
        "context",
        "first_chunk_at",
        "server",
        "span",
        "started_at",
    )

    def __init__(
        self,
        tracer: SpanStarter | None,
        subject: InferenceRequest,
        agent: str,
        caller: Mapping[str, str],
        parent: Context,
        *,
        now: float,
    ) -> None:
        self._has_tiers = subject.provider in _TIERED_PROVIDERS
        self.started_at = now
        """Seconds on the scheduler's clock."""
        self.first_chunk_at: float | None = None
        self.server = subject.server
        self.answered_model: str | None = None
        """As metrics have it, once it is answered."""
        self.span: Span | None = None
        self.context = parent
        """The context for the SDK; this class does not attach it."""
        self._open_spans: list[Span] = []
        if tracer is not None:
            name = subject.operation if subject.model is None else f"{subject.operation} {subject.model}"
            attributes = _build_request_attributes(subject, self.server)
            attributes[key.AGENT] = agent
            attributes.update(caller)
            self.span = span = tracer.start_span(name, parent, SpanKind.CLIENT, attributes)
            self.context = trace.set_span_in_context(span, parent)
            self._open_spans.append(span)

    def build_response_attributes(self, spending: Spending, *, shows_cost: bool = False) -> dict[str, AttributeValue]:
        """Return what the provider responded.

        Args:
            spending: what it took.
            shows_cost: whether to add the cost attributes that are proposed for the conventions.

        """
        attributes = _build_response_attributes(spending)
        if spending.service_tier is not None and self._has_tiers:
            attributes[key.RESPONSE_SERVICE_TIER] = spending.service_tier
        if shows_cost and spending.usd is not None:
            items = () if spending.usage is None else spending.usage.items
            is_reported = any(item.kind == REPORTED_CHARGE and item.amount == spending.usd for item in items)
            attributes[key.COST_AMOUNT] = spending.usd / MICRO
            attributes[key.COST_CURRENCY] = key.USD
            attributes[key.COST_SOURCE] = key.COST_SOURCES[0 if is_reported else 1]
        if self.first_chunk_at is not None:
            attributes[key.TIME_TO_FIRST_CHUNK] = self.first_chunk_at - self.started_at
        return attributes

    def end_span(self, error_type: str | None, resends: int, ended_at: int) -> None:
        """End the span. Idempotent.

        Args:
            error_type: the class of the call's error; None if it succeeded.
            resends: the number of times that its request was resent.
            ended_at: nanoseconds since the epoch.

        """
        try:
            # Atomic, even if a finaliser ends it concurrently with another thread.
            span = self._open_spans.pop()
        except IndexError:
            return
        if resends:
            span.set_attribute(key.RESEND_COUNT, resends)
        if error_type is not None:
            span.set_attribute(key.ERROR_TYPE, error_type)
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended_at)


def _build_response_attributes(spending: Spending) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {}
    if spending.model is not None:
        attributes[key.RESPONSE_MODEL] = spending.model
    if spending.response_id is not None:
        attributes[key.RESPONSE_ID] = spending.response_id
    if spending.finish_reasons:
        attributes[key.FINISH_REASONS] = spending.finish_reasons
    usage = spending.usage
    # Estimates are not usage: they are in `loco.spend.*`.
    if usage is not None and not usage.estimated:
        attributes[key.INPUT_TOKENS] = usage.input_tokens
        attributes[key.OUTPUT_TOKENS] = usage.output_tokens
        if usage.cache_read_tokens is not None:
            attributes[key.CACHE_READ_TOKENS] = usage.cache_read_tokens
        if usage.cache_write_tokens is not None:
            attributes[key.CACHE_WRITE_TOKENS] = usage.cache_write_tokens
        if usage.reasoning_tokens is not None:
            attributes[key.REASONING_TOKENS] = usage.reasoning_tokens
    return attributes


def _build_request_attributes(subject: InferenceRequest, server: Server | None) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        key.OPERATION: subject.operation,
        key.PROVIDER: subject.provider,
    }
    if subject.model is not None:
        attributes[key.MODEL] = subject.model
    if server is not None:
        host, port = server
        attributes[key.SERVER_ADDRESS] = host
        if port is not None:
            attributes[key.SERVER_PORT] = port
    body = subject.body
    if _READ_FIELDS.isdisjoint(body):
        return attributes
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
    _add_words(attributes, subject)
    return attributes


def _add_words(attributes: dict[str, AttributeValue], subject: InferenceRequest) -> None:
    """Add what a request asks for in the provider's words."""
    body = subject.body
    for name, paths in _WORD_FIELDS:
        for path in paths:
            word = _read_field(body, path)
            if isinstance(word, str) and word.isascii() and len(word) <= _MAX_WORD:
                attributes[name] = word
                break
    output = next((form for path in _FORMAT_FIELDS if (form := _read_field(body, path)) is not None), None)
    if isinstance(output, str):
        attributes[key.OUTPUT_TYPE] = "json" if "json" in output else "text"
    if "service_tier" in body and subject.provider in _TIERED_PROVIDERS and isinstance(body["service_tier"], str):
        attributes[key.SERVICE_TIER] = body["service_tier"]


def _read_field(body: Mapping[str, object], path: tuple[str, ...]) -> object:
    """Return a field of a body, of nested objects too; None if there is none."""
    value: object = body
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
