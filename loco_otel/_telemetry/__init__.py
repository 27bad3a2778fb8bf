"""Listeners that turn events into spans and metrics, if the program has configured providers for them.

Spans and metrics are independent of each other. Without an SDK there are no listeners, so nothing is computed, and
`pipeline`, which creates them, is not imported.
"""

from loco_otel._telemetry.call_trace import CallTrace
from loco_otel._telemetry.inference import InferenceRequest
from loco_otel._telemetry.presence import record_active as record_active_sdk
from loco_otel._telemetry.signals import (
    INSTRUMENTATION_SCOPE,
    ActiveSignals,
    detect_active_signals,
    record_inactive_sdk,
)

__all__ = [
    "INSTRUMENTATION_SCOPE",
    "ActiveSignals",
    "CallTrace",
    "InferenceRequest",
    "detect_active_signals",
    "record_active_sdk",
    "record_inactive_sdk",
]
