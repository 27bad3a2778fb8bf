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
    """Tests that fail with loco-otel on, because they forbid what our documentation promises."""


_NO_MOCK_SERVER = "needs a mock server for the provider's whole API"
_CASSETTES_ONLY = ("--vcr-record=none",)

SUITES = (
    Suite("openai", left_out=("tests/api_resources",), reason=_NO_MOCK_SERVER),
    Suite(
        "anthropic",
        left_out=("tests/api_resources",),
        reason=_NO_MOCK_SERVER,
        options=("-p", "tests._alias_httpx"),
        # It lists all attributes of the SDK's own span, which loco-otel extends by loco.wait.duration.
        documented=("tests/test_open_telemetry.py::TestCallSpans::test_unary_attributes",),
    ),
    Suite("groq", left_out=("tests/api_resources",), reason=_NO_MOCK_SERVER),
    Suite("opentelemetry-instrumentation-genai-openai", options=_CASSETTES_ONLY),
    Suite("opentelemetry-instrumentation-genai-anthropic", options=_CASSETTES_ONLY),
)
