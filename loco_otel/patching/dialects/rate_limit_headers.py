"""The headers in which providers and their proxies send when to come back, and what is left of a limit.

What is malformed or absurd is ignored, so that the ordinary back-off applies, and logged once for each header.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import NamedTuple

from loco_otel.clock import StatedDelay
from loco_otel.events import RateLimits

_NUMBER = re.compile(r"[0-9]*\.?[0-9]+")
_DURATION_PARTS = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|\u00b5s|\u03bcs|ms|s|m|h|d)")
_UNIT_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "\u00b5s": 1e-6,
    "\u03bcs": 1e-6,
    "ms": 0.001,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
_MAX_PLAIN_DIGITS = 15
_MIN_EPOCH = 1e9
"""A bare number from here on is no span of time but an instant, in seconds since 1970."""
_MIN_EPOCH_MS = 1e11
"""From here on it is in milliseconds."""
_MAX_SECONDS = 31 * 86400.0
"""The longest window of a limit is a month."""

_RETRY_AFTER_NAMES = (
    ("retry-after-ms", 0.001),
    ("x-ms-retry-after-ms", 0.001),
    ("x-amz-retry-after", 0.001),
    ("retry-after", 1.0),
    ("llm_provider-retry-after", 1.0),  # LiteLLM's proxy, of the provider behind it
)
_RETRY_INFO = "retryDelay"
"""The field of an error of Google's in which it states a delay."""
_MAX_CAUSES = 20
"""The most details of an error that are searched for one."""


class _LimitNames(NamedTuple):
    """Names of the headers of one limit."""

    remaining: str
    limit: str
    reset: str


_REQUEST_NAMES = (
    # OpenAI, Azure, Groq, xAI, Fireworks
    _LimitNames("x-ratelimit-remaining-requests", "x-ratelimit-limit-requests", "x-ratelimit-reset-requests"),
    _LimitNames(
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-limit",
        "anthropic-ratelimit-requests-reset",
    ),
    # Mistral, which sends no reset
    _LimitNames("x-ratelimit-remaining-req-minute", "x-ratelimit-limit-req-minute", "x-ratelimit-reset-req-minute"),
    # OpenRouter, Together, Envoy
    _LimitNames("x-ratelimit-remaining", "x-ratelimit-limit", "x-ratelimit-reset"),
    # Kong and others that follow the draft of the IETF
    _LimitNames("ratelimit-remaining", "ratelimit-limit", "ratelimit-reset"),
    # LiteLLM's proxy, of the provider behind it
    _LimitNames(
        "llm_provider-x-ratelimit-remaining-requests",
        "llm_provider-x-ratelimit-limit-requests",
        "llm_provider-x-ratelimit-reset-requests",
    ),
    _LimitNames(
        "llm_provider-anthropic-ratelimit-requests-remaining",
        "llm_provider-anthropic-ratelimit-requests-limit",
        "llm_provider-anthropic-ratelimit-requests-reset",
    ),
)
_TOKEN_NAMES = (
    _LimitNames("x-ratelimit-remaining-tokens", "x-ratelimit-limit-tokens", "x-ratelimit-reset-tokens"),
    _LimitNames(
        "anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-limit", "anthropic-ratelimit-tokens-reset"
    ),
    _LimitNames(
        "anthropic-ratelimit-input-tokens-remaining",
        "anthropic-ratelimit-input-tokens-limit",
        "anthropic-ratelimit-input-tokens-reset",
    ),
    _LimitNames(
        "x-ratelimit-remaining-tokens-minute", "x-ratelimit-limit-tokens-minute", "x-ratelimit-reset-tokens-minute"
    ),
    # Fireworks, of input
    _LimitNames(
        "x-ratelimit-remaining-tokens-prompt", "x-ratelimit-limit-tokens-prompt", "x-ratelimit-reset-tokens-prompt"
    ),
    # Together, whose one reset is of both limits
    _LimitNames("x-tokenlimit-remaining", "x-tokenlimit-limit", "x-ratelimit-reset"),
    # Mistral behind Kong
    _LimitNames("ratelimitbysize-remaining", "ratelimitbysize-limit", "ratelimitbysize-reset"),
    _LimitNames(
        "llm_provider-x-ratelimit-remaining-tokens",
        "llm_provider-x-ratelimit-limit-tokens",
        "llm_provider-x-ratelimit-reset-tokens",
    ),
    _LimitNames(
        "llm_provider-anthropic-ratelimit-tokens-remaining",
        "llm_provider-anthropic-ratelimit-tokens-limit",
        "llm_provider-anthropic-ratelimit-tokens-reset",
    ),
)

_REMAINING_NAMES = frozenset(names.remaining for names in (*_REQUEST_NAMES, *_TOKEN_NAMES))

_logger = logging.getLogger("loco_otel")
_logged_names: set[str] = set()
"""Headers whose malformed value was logged."""


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return seconds; `retry-after` may also be a date."""
    for name, scale in _RETRY_AFTER_NAMES:
        if name in headers:
            seconds = _read_seconds(headers, name)
            if seconds is not None:
                return _make_delay(seconds * scale, name)
    return None


def read_retry_info(body: object) -> float | None:
    """Return the seconds that `RetryInfo` in the JSON of an error states, as Google sends it; None without one."""
    error = body[0] if isinstance(body, list) and body else body
    error = error.get("error", error) if isinstance(error, Mapping) else None
    items = error.get("details") if isinstance(error, Mapping) else None
    for item in items[:_MAX_CAUSES] if isinstance(items, list) else ():
        text = item.get(_RETRY_INFO) if isinstance(item, Mapping) else None
        if isinstance(text, str):
            return _read_seconds({_RETRY_INFO: text}, _RETRY_INFO)
    return None


def find_forwarded_headers(body: object) -> Mapping[str, str]:
    """Return the headers, by their names in lower case, that the JSON of an error contains, as OpenRouter sends them.

    They are its own, or those of the provider behind it. Empty without any.
    """
    error = body.get("error", body) if isinstance(body, Mapping) else None
    metadata = error.get("metadata") if isinstance(error, Mapping) else None
    if not isinstance(metadata, Mapping):
        return {}
    headers = metadata.get("headers")
    found = {"retry-after": metadata.get("retry_after_seconds"), **(headers if isinstance(headers, Mapping) else {})}
    return {name.lower(): str(value) for name, value in found.items() if isinstance(value, (str, int, float))}


def read_rate_limits(headers: Mapping[str, str]) -> RateLimits | None:
    """Read what is left of requests and tokens, and when there is more; None where the provider does not say."""
    known = dict(headers.items())  # each lookup in httpx's mapping scans all headers
    if known.keys().isdisjoint(_REMAINING_NAMES):
        return None
    requests = _find_names(known, _REQUEST_NAMES)
    tokens = _find_names(known, _TOKEN_NAMES)
    if requests is None and tokens is None:
        return None
    requests_left, requests_limit, requests_reset = _read_limit(known, requests)
    tokens_left, tokens_limit, tokens_reset = _read_limit(known, tokens)
    if requests_left is None and tokens_left is None:
        return None
    return RateLimits(requests_left, tokens_left, requests_reset, tokens_reset, requests_limit, tokens_limit)


def _find_names(headers: Mapping[str, str], families: Iterable[_LimitNames]) -> _LimitNames | None:
    for names in families:
        if names.remaining in headers:
            return names
    return None


def _read_limit(headers: Mapping[str, str], names: _LimitNames | None) -> tuple[int | None, int | None, float | None]:
    """Return what is left, of how much, and in how many seconds there is more."""
    if names is None:
        return None, None, None
    return (
        _read_count(headers, names.remaining),
        _read_count(headers, names.limit),
        _read_seconds(headers, names.reset),
    )


def _read_count(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(name)
    if text is None:
        return None
    if len(text) <= _MAX_PLAIN_DIGITS and text.isdecimal():  # as nearly always: the fast path of the lines below
        return int(text)
    number = _parse_number(_take_first(text))
    if number is None:
        _log_malformed(name, text)
        return None
    return int(number)


def _read_seconds(headers: Mapping[str, str], name: str) -> float | None:
    """Return in how many seconds: None for no header, and for one that is malformed or absurd, which is logged."""
    text = headers.get(name)
    if text is None:
        return None
    first = _take_first(text)
    seconds = _parse_number(first)
    if seconds is None:
        seconds = _parse_duration(first)
    elif seconds >= _MIN_EPOCH:
        epoch = seconds / 1000.0 if seconds >= _MIN_EPOCH_MS else seconds
        seconds = max(0.0, epoch - _read_server_time(headers).timestamp())
    if seconds is None and (instant := _parse_instant(text)) is not None:
        seconds = max(0.0, (instant - _read_server_time(headers)).total_seconds())
    if seconds is None or seconds > _MAX_SECONDS:
        _log_malformed(name, text)
        return None
    delay = StatedDelay(seconds)  # as `_make_delay` does: this is on the path of each answer
    delay.header = name
    return delay


def _make_delay(seconds: float, name: str) -> StatedDelay:
    delay = StatedDelay(seconds)
    delay.header = name
    return delay


def _take_first(text: str) -> str:
    # A header that a proxy repeats arrives as a list, and some limits have parameters: `10, 10;w=60`.
    return text.partition(",")[0].partition(";")[0].strip()


def _parse_number(text: str) -> float | None:
    """Return a number in plain decimals: no sign, no exponent, no `inf`, no `nan`."""
    if not text[-1:].isdigit() or _NUMBER.fullmatch(text) is None:
        return None
    number = float(text)
    return number if isfinite(number) else None


def _parse_duration(text: str) -> float | None:
    """Return the seconds of a span of time as Go writes it, `6m0s`."""
    seconds, end = 0.0, 0
    for part in _DURATION_PARTS.finditer(text):
        if part.start() != end:
            return None
        number, unit = part.groups()
        seconds += float(number) * _UNIT_SECONDS[unit]
        end = part.end()
    return seconds if end and end == len(text) else None


def _parse_instant(text: str) -> datetime | None:
    """Parse an HTTP date or an ISO 8601 instant; one without a time zone is UTC."""
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            instant = parse(text.strip())
            return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    return None


def _read_server_time(headers: Mapping[str, str]) -> datetime:
    """Return the time by the clock that the answer's instants are written by: the server's, where it sends `Date`."""
    sent_at = _parse_instant(headers.get("date", ""))
    return datetime.now(UTC) if sent_at is None else sent_at


def _log_malformed(name: str, text: str) -> None:
    if name not in _logged_names:
        _logged_names.add(name)
        _logger.warning(
            "the provider's header %s is malformed or absurd: %.60r; it is ignored and the ordinary back-off applies; "
            "logged once",
            name,
            text,
        )
