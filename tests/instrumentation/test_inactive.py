"""An SDK that is left unscheduled is shown in metrics, with the reason."""

from typing import Any

import pytest
from loco_otel_instrumentation.openai import OpenAIInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from semconv_check import exported

from loco_otel._telemetry import presence
from loco_otel.patching import instrumentor as base


def read_reasons(instrumentor: Any) -> dict[object, tuple[object, object]]:
    reader = InMemoryMetricReader()
    try:
        instrumentor.instrument(meter_provider=MeterProvider([reader], shutdown_on_exit=False))
        metrics = {metric.name: metric for metric in exported(reader.get_metrics_data())}
    finally:
        instrumentor.uninstrument()
    return {
        attributes["loco.sdk.name"]: (getattr(point, "value", None), attributes.get("loco.inactive.reason"))
        for point in metrics["loco.active"].data.data_points
        if (attributes := point.attributes or {})
    }


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [("LOCO_ENABLED", "false", "disabled"), ("LOCO_CAPACITY", "many", "configuration_error")],
)
def test_setting_that_prevents_scheduling_is_the_reason(
    name: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "_inactive", {})
    monkeypatch.setenv(name, value)
    assert read_reasons(OpenAIInstrumentor()) == {"openai": (0, reason)}


def test_version_that_is_not_supported_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_inactive", {})
    monkeypatch.setattr(base, "find_installed_version", lambda _: "0.28.1")
    assert read_reasons(OpenAIInstrumentor()) == {"openai": (0, "unsupported_version")}


def test_scheduled_sdk_has_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_inactive", {})
    assert read_reasons(OpenAIInstrumentor()) == {"openai": (1, None)}
