"""What the headers of a refusal mean: every form that providers and their proxies send, and forms that mean nothing."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from loco_otel_instrumentation.openai.adapter import OpenAIAdapter

from loco_otel.events import RateLimits
from loco_otel.patching.dialects import rate_limit_headers
from loco_otel.patching.dialects.rate_limit_headers import read_rate_limits, read_retry_info
from loco_otel.patching.throttling import read_throttle_signal

AHEAD = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
"""The clock of a server whose time is an hour ahead."""
IN_20_S = AHEAD + timedelta(seconds=20)
DATE = {"date": format_datetime(AHEAD, usegmt=True)}
EPOCH = int(IN_20_S.timestamp())


@pytest.fixture(autouse=True)
def nothing_logged_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit_headers, "_logged_names", set())


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    signal = read_throttle_signal(OpenAIAdapter(), httpx.Response(429, headers=headers))
    assert signal is not None
    return signal.retry_after


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "7"}, 7.0),
        ({"Retry-After": " 7 "}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "20s"}, 20.0),
        ({"retry-after": "5, 5"}, 5.0),
        ({"retry-after-ms": "3500"}, 3.5),
        ({"retry-after-ms": "3500", "retry-after": "4"}, 3.5),
        ({"retry-after-ms": "soon", "retry-after": "4"}, 4.0),
        ({"x-ms-retry-after-ms": "1500"}, 1.5),
        # Bedrock
        ({"x-amz-retry-after": "1500"}, 1.5),
        # LiteLLM's proxy, of its own limits and of those of the provider behind it
        ({"retry-after": "42.123456"}, 42.123456),
        ({"llm_provider-retry-after": "7"}, 7.0),
        ({"retry-after": format_datetime(IN_20_S, usegmt=True), **DATE}, 20.0),
        ({"retry-after": IN_20_S.strftime("%a %b %d %H:%M:%S %Y"), **DATE}, 20.0),
        ({"retry-after": IN_20_S.isoformat(), **DATE}, 20.0),
        ({"retry-after": str(EPOCH), **DATE}, 20.0),
        ({"retry-after": format_datetime(AHEAD - timedelta(hours=1), usegmt=True), **DATE}, 0.0),
    ],
)
def test_retry_after_of_each_form_is_read(headers: Mapping[str, str], seconds: float | None) -> None:
    assert read_retry_after(headers) == seconds


@pytest.mark.parametrize(
    ("metadata", "seconds"),
    [
        ({"retry_after_seconds": 17}, 17.0),
        ({"retry_after_seconds": 16.5, "headers": {"Retry-After": "17"}}, 17.0),
        ({"headers": {"Retry-After": None, "X-Other": {}}}, None),
        ({"headers": ["Retry-After"], "retry_after_seconds": -1}, None),
        ("none", None),
        (None, None),
    ],
)
def test_delay_that_a_router_forwards_is_read(metadata: object, seconds: float | None) -> None:
    error = {"error": {"code": 429, "metadata": metadata}}
    for headers, stated in (({}, seconds), ({"retry-after": "3"}, 3.0)):
        signal = read_throttle_signal(OpenAIAdapter(), httpx.Response(429, headers=headers), error)
        assert signal is not None
        assert signal.retry_after == stated


DETAIL = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "28.5s"}


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ({"error": {"code": 429, "details": [{"@type": "QuotaFailure"}, DETAIL]}}, 28.5),
        ([{"error": {"code": 429, "details": [DETAIL]}}], 28.5),
        ({"code": 429, "details": [DETAIL]}, 28.5),
        *(
            ({"error": {"details": [{"retryDelay": delay}]}}, None)
            for delay in ("infs", "nans", "-5s", "1e400s", "", "soon", 5, None)
        ),
        ({"error": {"details": DETAIL}}, None),
        ({"error": "too many"}, None),
        ([], None),
    ],
)
def test_retry_info_of_a_body_is_read(body: object, seconds: float | None) -> None:
    signal = read_throttle_signal(OpenAIAdapter(), httpx.Response(429, json=body))
    assert signal is not None
    assert signal.retry_after == seconds
    first = read_throttle_signal(OpenAIAdapter(), httpx.Response(429, json=body, headers={"retry-after": "3"}))
    assert first is not None
    assert first.retry_after == 3.0


def test_delay_names_its_header() -> None:
    delays = (
        read_retry_after({"retry-after": "20"}),
        read_retry_after({"retry-after-ms": "20"}),
        read_retry_info({"error": {"details": [DETAIL]}}),
    )
    limits = read_rate_limits(openai_limits("1s", "6m0s"))
    assert limits is not None
    delays += limits.requests_reset, limits.tokens_reset
    assert [getattr(delay, "header", None) for delay in delays] == [
        "retry-after",
        "retry-after-ms",
        "retryDelay",
        "x-ratelimit-reset-requests",
        "x-ratelimit-reset-tokens",
    ]


@pytest.mark.parametrize("date", [{}, {"date": "yesterday"}])
def test_instant_without_a_date_is_measured_by_our_clock(date: Mapping[str, str]) -> None:
    # An hour ahead of now, not of the import of this module: the suite may begin long before this test.
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)
    seconds = read_retry_after({"retry-after": format_datetime(in_an_hour, usegmt=True), **date})
    assert seconds is not None
    assert 3500 < seconds <= 3600


@pytest.mark.parametrize(
    "text",
    ["inf", "-inf", "nan", "1e400", "-5", "-0.5", "9" * 400, "99999999", "", "soon", "5 apples", "1_0", "1m2", "0x10"],
)
def test_malformed_retry_after_means_ordinary_back_off(text: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "loco_otel"):
        assert read_retry_after({"retry-after": text}) is None
        assert read_retry_after({"retry-after": text}) is None
    (record,) = caplog.records
    assert "retry-after" in record.getMessage()


def openai_limits(requests_reset: str, tokens_reset: str) -> dict[str, str]:
    return {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": requests_reset,
        "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-tokens": tokens_reset,
    }


def anthropic_limits(reset: str, tokens: str = "tokens") -> dict[str, str]:
    return {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": reset,
        f"anthropic-ratelimit-{tokens}-limit": "40000",
        f"anthropic-ratelimit-{tokens}-remaining": "39000",
        f"anthropic-ratelimit-{tokens}-reset": reset,
    }


@pytest.mark.parametrize(
    ("headers", "limits"),
    [
        ({}, None),
        # OpenAI
        (openai_limits("1s", "6m0s"), RateLimits(0, 149984, 1.0, 360.0, 60, 150000)),
        (openai_limits("120ms", "1h2m3.5s"), RateLimits(0, 149984, 0.12, 3723.5, 60, 150000)),
        (openai_limits("1d1h", "500\u00b5s"), RateLimits(0, 149984, 90000.0, 0.0005, 60, 150000)),
        # Azure
        (openai_limits("10", "55"), RateLimits(0, 149984, 10.0, 55.0, 60, 150000)),
        (openai_limits("10.5", "0"), RateLimits(0, 149984, 10.5, 0.0, 60, 150000)),
        ({"x-ratelimit-remaining-tokens": "-1", "x-ratelimit-reset-tokens": "55"}, None),
        # Groq
        (openai_limits("2m59.56s", "7.66s"), RateLimits(0, 149984, 179.56, 7.66, 60, 150000)),
        # Anthropic
        (
            {**anthropic_limits(IN_20_S.strftime("%Y-%m-%dT%H:%M:%SZ")), **DATE},
            RateLimits(0, 39000, 20.0, 20.0, 50, 40000),
        ),
        (
            {**anthropic_limits(IN_20_S.isoformat(), "input-tokens"), **DATE},
            RateLimits(0, 39000, 20.0, 20.0, 50, 40000),
        ),
        # OpenRouter
        (
            {"x-ratelimit-limit": "20", "x-ratelimit-remaining": "0", "x-ratelimit-reset": str(EPOCH * 1000), **DATE},
            RateLimits(0, None, 20.0, None, 20, None),
        ),
        # Mistral, of today and before
        (
            {
                "x-ratelimit-limit-req-minute": "60",
                "x-ratelimit-remaining-req-minute": "0",
                "x-ratelimit-limit-tokens-minute": "500000",
                "x-ratelimit-remaining-tokens-minute": "12",
            },
            RateLimits(0, 12, None, None, 60, 500000),
        ),
        (
            {"ratelimitbysize-limit": "500000", "ratelimitbysize-remaining": "0", "ratelimitbysize-reset": "33"},
            RateLimits(None, 0, None, 33.0, None, 500000),
        ),
        # LiteLLM's proxy, of the provider behind it
        (
            {f"llm_provider-{name}": text for name, text in openai_limits("1s", "6m0s").items()},
            RateLimits(0, 149984, 1.0, 360.0, 60, 150000),
        ),
        (
            {
                **{f"llm_provider-{name}": text for name, text in anthropic_limits(IN_20_S.isoformat()).items()},
                **DATE,
            },
            RateLimits(0, 39000, 20.0, 20.0, 50, 40000),
        ),
        # Envoy, Kong, and proxies that write seconds since 1970
        (
            {"x-ratelimit-limit": "10, 10;w=60", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "42"},
            RateLimits(0, None, 42.0, None, 10, None),
        ),
        (
            {"ratelimit-limit": "10", "ratelimit-remaining": "0", "ratelimit-reset": "42"},
            RateLimits(0, None, 42.0, None, 10, None),
        ),
        (
            {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(EPOCH), **DATE},
            RateLimits(0, None, 20.0, None, None, None),
        ),
        # Malformed
        (openai_limits("inf", "nan"), RateLimits(0, 149984, None, None, 60, 150000)),
        (openai_limits("-1s", "1e400"), RateLimits(0, 149984, None, None, 60, 150000)),
        (openai_limits("6m 0s", "999d"), RateLimits(0, 149984, None, None, 60, 150000)),
        ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "99s"}, None),
        ({"x-ratelimit-remaining-requests": "unlimited"}, None),
    ],
)
def test_limits_of_each_provider_are_read(headers: Mapping[str, str], limits: RateLimits | None) -> None:
    read = read_rate_limits(httpx.Headers(headers, encoding="utf-8"))
    assert read == (None if limits is None else pytest.approx(limits))
