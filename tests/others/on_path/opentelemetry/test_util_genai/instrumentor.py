"""The context manager in which tests of OpenTelemetry's GenAI instrumentors patch an SDK."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.util.genai.environment_variables import OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT


@contextmanager
def instrument(
    instrumentor: BaseInstrumentor,
    *,
    content_capture: str | None = None,
    extra_env: Mapping[str, str] | None = None,
    **options: Any,
) -> Iterator[BaseInstrumentor]:
    environ = dict(extra_env or {})
    if content_capture is not None:
        environ[OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT] = content_capture
    with mock.patch.dict("os.environ", environ):
        instrumentor.instrument(**options)
        try:
            yield instrumentor
        finally:
            instrumentor.uninstrument()
