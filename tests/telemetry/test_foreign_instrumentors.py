"""Which spans of other instrumentations are inference spans."""

import pytest
from opentelemetry.sdk.trace import TracerProvider

from loco_otel._telemetry.foreign_instrumentors import is_inference_span


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"gen_ai.operation.name": "chat"}, True),
        ({"gen_ai.operation.name": "invoke_agent", "gen_ai.request.model": "gpt-4o"}, False),
        ({"gen_ai.request.model": "gpt-4o"}, True),
        ({"gen_ai.request.model": "gpt-4o", "loco.agent.id": "analyst"}, False),
        ({"openinference.span.kind": "LLM"}, True),
        ({"openinference.span.kind": "AGENT"}, False),
        ({"langfuse.observation.type": "generation"}, True),
        ({"langfuse.observation.type": "span"}, False),
        ({}, False),
    ],
)
def test_span_is_an_inference_span_by_attributes(attributes: dict[str, str], expected: bool) -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("vendor")
    with tracer.start_as_current_span("call", attributes=attributes) as span:
        assert is_inference_span(span) == expected
