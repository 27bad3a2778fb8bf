"""The signals for which the program has configured a provider."""

from typing import NamedTuple

from opentelemetry.metrics import MeterProvider, NoOpMeter, NoOpMeterProvider, get_meter_provider
from opentelemetry.metrics._internal import _ProxyMeterProvider
from opentelemetry.trace import (
    NoOpTracer,
    NoOpTracerProvider,
    ProxyTracerProvider,
    TracerProvider,
    get_tracer_provider,
)

from loco_otel._telemetry import presence
from loco_otel._version import __version__
from loco_otel.events import InactiveReason

INSTRUMENTATION_SCOPE = "loco_otel"
"""Name of the instrumentation scope. It has no schema URL: `loco.*` is in no published schema."""


class ActiveSignals(NamedTuple):
    """The signals that the program has configured."""

    tracing: bool
    metrics: bool


def detect_active_signals(
    tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
) -> ActiveSignals:
    """Return whether spans and metrics would be exported; a provider that is None is the global one.

    Neither is while no provider is set, nor with `OTEL_SDK_DISABLED`: the SDK's providers then return no-op tracers and
    meters.
    """
    tracer_provider = tracer_provider or get_tracer_provider()
    meter_provider = meter_provider or get_meter_provider()
    return ActiveSignals(
        tracing=not isinstance(tracer_provider, ProxyTracerProvider | NoOpTracerProvider)
        and not isinstance(tracer_provider.get_tracer(INSTRUMENTATION_SCOPE, __version__), NoOpTracer),
        metrics=not isinstance(meter_provider, _ProxyMeterProvider | NoOpMeterProvider)
        and not isinstance(meter_provider.get_meter(INSTRUMENTATION_SCOPE, __version__), NoOpMeter),
    )


def record_inactive_sdk(
    sdk: str, version: str, reason: InactiveReason, meter_provider: MeterProvider | None = None
) -> None:
    """Show in metrics, if the program has configured any, that the calls of an installed SDK are not scheduled."""
    presence.record_inactive(sdk, version, reason)
    if detect_active_signals(meter_provider=meter_provider).metrics:
        from loco_otel._telemetry import gauges  # noqa: PLC0415 - slow to import, for programs with an SDK alone

        gauges.get_gauges((meter_provider or get_meter_provider()).get_meter(INSTRUMENTATION_SCOPE, __version__))
