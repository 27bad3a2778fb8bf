"""What is set up is used, and nothing else is."""

import pytest
from opentelemetry import metrics, trace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider
from telemetry_scenario import SUBJECT, standing

from loco_otel._telemetry import detect_active_signals
from loco_otel._telemetry.blame import BlameListener
from loco_otel._telemetry.metrics import MetricListener
from loco_otel._telemetry.pipeline import ProcessState, Telemetry
from loco_otel._telemetry.runs import RunListener
from loco_otel._telemetry.spans import SpanListener
from loco_otel._telemetry.time_sums import TimeSums


def never() -> None:
    pytest.fail("nothing may be asked without an SDK")


def start(tracer_provider: trace.TracerProvider, meter_provider: metrics.MeterProvider) -> Telemetry:
    return Telemetry.from_providers(
        ProcessState(standing, list), tracer_provider=tracer_provider, meter_provider=meter_provider
    )


def real_tracing() -> TracerProvider:
    return TracerProvider(shutdown_on_exit=False)


def real_metrics() -> MeterProvider:
    return MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)


def test_nothing_is_configured_without_an_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr("opentelemetry.metrics._internal._METER_PROVIDER", None)
    assert detect_active_signals() == (False, False)

    telemetry = Telemetry.from_providers(ProcessState(never, never), wall=never, clock=never)  # type: ignore[arg-type]
    assert telemetry.listeners == ()
    telemetry.close()


def test_global_providers_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", real_tracing())
    monkeypatch.setattr("opentelemetry.metrics._internal._METER_PROVIDER", real_metrics())
    assert detect_active_signals() == (True, True)
    telemetry = Telemetry.from_providers(ProcessState(standing, list))
    assert [type(listener) for listener in telemetry.listeners] == [
        BlameListener,
        RunListener,
        SpanListener,
        MetricListener,
        TimeSums,
    ]


@pytest.mark.parametrize("tracing", [NoOpTracerProvider(), ProxyTracerProvider()])
def test_no_op_providers_are_not_configured(tracing: trace.TracerProvider) -> None:
    assert detect_active_signals(tracing, NoOpMeterProvider()) == (False, False)


def test_disabled_sdk_is_not_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert detect_active_signals(real_tracing(), real_metrics()) == (False, False)
    assert start(real_tracing(), real_metrics()).listeners == ()


def test_tracing_alone_is_configured() -> None:
    assert detect_active_signals(real_tracing(), NoOpMeterProvider()) == (True, False)
    telemetry = start(real_tracing(), NoOpMeterProvider())
    assert [type(listener) for listener in telemetry.listeners] == [BlameListener, RunListener, SpanListener]
    assert telemetry.create_trace() is not None


def test_metrics_alone_are_configured() -> None:
    assert detect_active_signals(NoOpTracerProvider(), real_metrics()) == (False, True)
    telemetry = start(NoOpTracerProvider(), real_metrics())
    assert [type(listener) for listener in telemetry.listeners] == [
        BlameListener,
        RunListener,
        MetricListener,
        TimeSums,
    ]
    call = telemetry.create_trace()
    call.begin_call("analyst", SUBJECT, has_sdk_span=False)
    call.begin_inference("analyst", 0.0)
    assert call.call_span is None
    assert call.inference_span is not None
    assert call.inference_span.span is None
