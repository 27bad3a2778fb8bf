"""What the inference span shows of a request's body."""

from typing import Any

import pytest
from telemetry_scenario import SUBJECT, Rig

NAMES = (
    "gen_ai.output.type", "gen_ai.request.reasoning.level", "gen_ai.request.previous_response.id",
    "openai.request.service_tier",
)  # fmt: skip


def shown(body: dict[str, object], provider: str = "openai") -> dict[str, Any]:
    rig = Rig()
    call = rig.telemetry.create_trace()
    call.begin_call("analyst", SUBJECT._replace(body=body, provider=provider), has_sdk_span=False)
    call.begin_inference("analyst", 995.0)
    assert call.inference_span is not None
    call.inference_span.end_span(None, 0, 0)
    (span,) = [span for span in rig.spans() if span.name.startswith("chat")]
    return {name: value for name, value in (span.attributes or {}).items() if name in NAMES}


@pytest.mark.parametrize(
    ("body", "attributes"),
    [
        ({}, {}),
        ({"response_format": {"type": "json_schema"}}, {"gen_ai.output.type": "json"}),
        ({"response_format": {"type": "text"}}, {"gen_ai.output.type": "text"}),
        ({"text": {"format": {"type": "json_object"}}}, {"gen_ai.output.type": "json"}),
        ({"reasoning_effort": "low"}, {"gen_ai.request.reasoning.level": "low"}),
        ({"reasoning": {"effort": "high", "summary": "auto"}}, {"gen_ai.request.reasoning.level": "high"}),
        ({"output_config": {"effort": "medium"}}, {"gen_ai.request.reasoning.level": "medium"}),
        ({"previous_response_id": "resp_1"}, {"gen_ai.request.previous_response.id": "resp_1"}),
        ({"service_tier": "flex"}, {"openai.request.service_tier": "flex"}),
    ],
)
def test_words_of_the_request_are_shown(body: dict[str, object], attributes: dict[str, str]) -> None:
    assert shown(body) == attributes


@pytest.mark.parametrize(
    "body",
    [
        {"response_format": "json", "reasoning": "high", "text": 3, "output_config": None},
        {"reasoning_effort": None, "previous_response_id": 7, "service_tier": {"name": "flex"}},
        {"reasoning": {"effort": ["high"]}, "previous_response_id": "x" * 201, "reasoning_effort": "h\u00f6ch"},
    ],
)
def test_other_values_are_omitted(body: dict[str, object]) -> None:
    assert shown(body) == {}


def test_service_tier_is_openais_alone() -> None:
    assert shown({"service_tier": "auto"}, "anthropic") == {}
