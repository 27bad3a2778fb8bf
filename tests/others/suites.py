"""The distributions whose published tests run with loco-otel on."""

from typing import NamedTuple


class Suite(NamedTuple):
    """What one source distribution ships as tests, and how it runs."""

    distribution: str
    tests: tuple[str, ...] = ("tests",)
    """Files and folders, relative to the unpacked distribution."""
    left_out: tuple[str, ...] = ()
    """Files and folders below `tests` that cannot run here."""
    reason: str = ""
    """Why they cannot."""
    options: tuple[str, ...] = ()
    """Further options of pytest. Those that the distribution's own settings name are off."""

    documented: tuple[str, ...] = ()
    """Tests that fail with loco-otel on, because they forbid what our documentation promises. Without parameters."""


_NO_MOCK_SERVER = "needs a mock server for the provider's whole API"
_CASSETTES_ONLY = ("--vcr-record=none",)
# pytest-asyncio warns if the setting is missing, and the distribution's settings turn that into an error.
_FIXTURE_LOOP = "--override-ini=asyncio_default_fixture_loop_scope=function"

SUITES = (
    Suite("openai", left_out=("tests/api_resources",), reason=_NO_MOCK_SERVER),
    Suite(
        "anthropic",
        left_out=("tests/api_resources",),
        reason=_NO_MOCK_SERVER,
        options=("-p", "tests._alias_httpx"),
        documented=(
            # It lists all attributes of the SDK's own span, which loco-otel extends by loco.wait.duration.
            "tests/test_open_telemetry.py::TestCallSpans::test_unary_attributes",
            # They forbid any span around the call, or any use of OpenTelemetry: loco-otel has a span of its own there.
            (
                "tests/test_open_telemetry.py::TestPropagationOption"
                "::test_false_keeps_a_span_that_the_sampler_dropped_current_for_the_requests"
            ),
            "tests/test_open_telemetry.py::TestTracingFailures::test_disabled_spans_call_nothing_of_opentelemetry",
            # It compares all headers of two calls, with the traceparent by which the SDK names the span of each.
            "tests/lib/tools/test_runners.py::test_a_runner_made_from_params_sends_the_requests_of_tool_runner",
        ),
    ),
    Suite("groq", left_out=("tests/api_resources",), reason=_NO_MOCK_SERVER),
    Suite("opentelemetry-instrumentation-genai-openai", options=(*_CASSETTES_ONLY, _FIXTURE_LOOP)),
    Suite("opentelemetry-instrumentation-genai-anthropic", options=_CASSETTES_ONLY),
)
