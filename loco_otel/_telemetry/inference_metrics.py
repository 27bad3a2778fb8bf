"""The histograms of the GenAI conventions, of calls whose inference span loco-otel creates."""

from collections.abc import Callable
from typing import NamedTuple

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry import catalogue
from loco_otel._telemetry.call_trace import ROOT_CONTEXT, CallTrace
from loco_otel._telemetry.catalogue import MetricDefinition
from loco_otel._telemetry.histogram_buffer import BufferedHistogram
from loco_otel._telemetry.inference import InferenceRequest, InferenceSpan, Server
from loco_otel._telemetry.instruments import CardinalityLimit, PointValues, remember
from loco_otel.events import Spending


class _Points(NamedTuple):
    """The points of one kind of call."""

    input_tokens: PointValues
    output_tokens: PointValues
    time_to_first_chunk: PointValues
    duration: PointValues
    labels: dict[str, str | int]
    """The attributes that all of them share."""


class InferenceMetrics:
    """Records durations and tokens of calls.

    Args:
        create: creates a histogram.
        limit: limits the values of attributes.

    """

    def __init__(self, create: Callable[[MetricDefinition], BufferedHistogram], limit: CardinalityLimit) -> None:
        self._cardinality_limit = limit
        self._duration = create(catalogue.DURATION)
        self._time_to_first_chunk = create(catalogue.TIME_TO_FIRST_CHUNK)
        self._token_usage = create(catalogue.TOKEN_USAGE)
        self._points: dict[tuple[object, ...], _Points] = {}
        """By kind of call, as finding them takes longer than adding to them."""

    def record_answer(self, spending: Spending, inference: InferenceSpan, subject: InferenceRequest) -> None:
        """Record the tokens of an answer, and the time to its first chunk."""
        inference.answered_model = spending.model
        points = self._get_points(inference, subject)
        usage = spending.usage
        if usage is not None and not usage.estimated:
            self._token_usage.record_value(usage.input_tokens, points.input_tokens, ROOT_CONTEXT)
            self._token_usage.record_value(usage.output_tokens, points.output_tokens, ROOT_CONTEXT)
        if inference.first_chunk_at is not None:
            seconds = inference.first_chunk_at - inference.started_at
            self._time_to_first_chunk.record_value(seconds, points.time_to_first_chunk, inference.context)

    def record_end(self, trace: CallTrace, at: float) -> None:
        """Record the duration of a call that has ended; no-op for a call without an inference of loco-otel."""
        inference, subject = trace.inference_span, trace.inference_request
        if inference is None or subject is None:
            return
        points = self._get_points(inference, subject)
        values = points.duration
        if trace.error_type is not None:
            error = self._cardinality_limit(key.ERROR_TYPE, trace.error_type)
            values = self._duration.order_values({**points.labels, key.ERROR_TYPE: error})
        self._duration.record_value(at - inference.started_at, values, inference.context)

    def _get_points(self, inference: InferenceSpan, subject: InferenceRequest) -> _Points:
        kind = subject.operation, subject.provider, subject.model, inference.server, inference.answered_model
        points = self._points.get(kind)
        if points is None:
            labels = self._build_labels(subject, inference.server, inference.answered_model)
            points = _Points(
                self._token_usage.order_values({**labels, key.TOKEN_TYPE: key.INPUT}),
                self._token_usage.order_values({**labels, key.TOKEN_TYPE: key.OUTPUT}),
                self._time_to_first_chunk.order_values(labels),
                self._duration.order_values(labels),
                labels,
            )
            remember(self._points, kind, points)
        return points

    def _build_labels(
        self, subject: InferenceRequest, server: Server | None, answered_model: str | None
    ) -> dict[str, str | int]:
        labels: dict[str, str | int] = {
            key.OPERATION: subject.operation,
            key.PROVIDER: self._cardinality_limit(key.PROVIDER, subject.provider),
            key.MODEL: key.UNKNOWN if subject.model is None else self._cardinality_limit(key.MODEL, subject.model),
        }
        if answered_model is not None:
            labels[key.RESPONSE_MODEL] = self._cardinality_limit(key.RESPONSE_MODEL, answered_model)
        if server is not None:
            host, port = server
            labels[key.SERVER_ADDRESS] = known = self._cardinality_limit(key.SERVER_ADDRESS, host)
            if port is not None and known == host:
                labels[key.SERVER_PORT] = port
        return labels
