"""pytest plugin: run the tests of others with every instrumentation and all telemetry of loco-otel on.

The providers are not the global ones, because tests of the SDKs require that none is set. After each test that made
calls, the number of those that were scheduled is appended to the file that `OTHERS_CALLS` names: not at the end of the
session, which workers of pytest-xdist do not always reach.
"""

import os
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

import loco_otel
from loco_otel._runtime import process
from loco_otel.events import Event, Granted

_CALLS = Path(os.environ["OTHERS_CALLS"])


class _DiscardingExporter(SpanExporter):
    """Accepts every span: what a long run exports must not fill the memory."""

    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class _GrantCounter:
    def __init__(self) -> None:
        self.grants = 0

    def __call__(self, event: Event, /) -> None:
        self.grants += isinstance(event, Granted)


_counter = _GrantCounter()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    tracer_provider = TracerProvider()
    tracer_provider.add_span_processor(SimpleSpanProcessor(_DiscardingExporter()))
    runtime = process.get_runtime()
    runtime.start_telemetry(tracer_provider, MeterProvider([InMemoryMetricReader()]))
    runtime.engine.add_listener(_counter)
    loco_otel.install()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    process.get_runtime().engine.flush()
    grants, _counter.grants = _counter.grants, 0
    if grants:
        with _CALLS.open("a", encoding="ascii") as file:
            file.write(f"{grants}\n")
