"""What a provider's refusal says: how long to stay away, how much is left, and whether it is about load at all."""

import json
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from loco_otel.events import RateLimits, ThrottleKind
from loco_otel.patching.adapter import Adapter
from loco_otel.patching.refusal import Refusal, RefusalReader

THROTTLE_STATUSES = frozenset({429, 503, 529})
"""Too many requests; unavailable, which providers send when overloaded; overloaded."""

_READ_TIMEOUT_CLASSES = frozenset({"ReadTimeout", "SocketTimeoutError", "TimeoutError"})
"""Classes of httpx, httpx2 and aiohttp that mean that a provider did not answer in time a request that was sent."""
_TIMEOUT_CLASSES = _READ_TIMEOUT_CLASSES | {"ConnectTimeout", "WriteTimeout", "ServerTimeoutError"}
"""All that mean so. `PoolTimeout` is the program's own."""
_DURATION_PARTS = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class ThrottleSignal(NamedTuple):
    """One refusal."""

    status: int | None
    """None where there was no answer in time."""
    kind: ThrottleKind
    retry_after: float | None
    """Seconds."""
    limits: RateLimits | None


def read_throttle_signal(
    adapter: Adapter, response: Any, body: object = None, *, error: BaseException | None = None
) -> ThrottleSignal | None:
    """Read an HTTP response; None when it is no refusal.

    Args:
        adapter: knows the provider's words for an empty account, and for what goes wrong within a stream.
        response: an httpx or httpx2 response, or None.
        body: its parsed JSON, where the SDK has it already.
        error: what the attempt failed with, where there was no response: a provider that does not answer in time is
            too busy to.

    """
    if error is not None and isinstance(adapter, RefusalReader):
        refusal = adapter.read_refusal(error)
        if refusal is not None:
            return _read_refusal(adapter, refusal)
        response = body = None
    if isinstance(body, Mapping) and (response is None or response.is_success):
        # Begun well, and broken off; what the headers said was before.
        status = adapter.read_error_status(body)
        return ThrottleSignal(status, ThrottleKind.LOAD, None, None) if status in THROTTLE_STATUSES else None
    if response is None:
        return ThrottleSignal(None, ThrottleKind.TIMEOUT, None, None) if _is_timeout(error) else None
    status = getattr(response, "status_code", None)
    if status not in THROTTLE_STATUSES:
        return None
    headers: Mapping[str, str] = response.headers
    if body is None:
        body = _parse_json(response)
    spent = status == 429 and isinstance(body, Mapping) and adapter.is_spend_limit(body)  # noqa: PLR2004
    kind = ThrottleKind.SPEND if spent else ThrottleKind.LOAD
    return ThrottleSignal(status, kind, _read_retry_after(headers), read_rate_limits(headers))


def _read_refusal(adapter: Adapter, refusal: Refusal) -> ThrottleSignal | None:
    """Return what a refusal means to the scheduler; None where it is not about load."""
    status, headers, body, in_stream, retry_after = refusal
    if status not in THROTTLE_STATUSES:
        return None
    if in_stream:
        return ThrottleSignal(status, ThrottleKind.LOAD, None, None)  # what the headers said was before
    spent = status == 429 and isinstance(body, Mapping) and adapter.is_spend_limit(body)  # noqa: PLR2004
    kind = ThrottleKind.SPEND if spent else ThrottleKind.LOAD
    if retry_after is None:
        retry_after = _read_retry_after(headers)
    return ThrottleSignal(status, kind, retry_after, read_rate_limits(headers))


def is_caller_gone(error: BaseException) -> bool:
    """Tell whether a call ended with this because nobody would wait for its answer any longer."""
    # Cancellation and interrupts of all kinds are no `Exception`.
    return not isinstance(error, Exception) or _is_timeout(error, _READ_TIMEOUT_CLASSES)


def _is_timeout(error: BaseException | None, kinds: Collection[str] = _TIMEOUT_CLASSES) -> bool:
    # The SDKs' own error for it has the cause.
    return any(type(each).__name__ in kinds for each in (error, getattr(error, "__cause__", None)))


def _parse_json(response: Any) -> object:
    # Only what is in memory already: the body of a streamed request's refusal is never read by the SDK.
    content = getattr(response, "_content", None)
    try:
        return json.loads(content) if content else None
    except ValueError:
        return None


def _read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return seconds; `retry-after` may also be a date."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return float(headers[name]) * scale
        except (KeyError, ValueError):
            continue
    try:
        return _seconds_until(parsedate_to_datetime(headers["retry-after"]))
    except (KeyError, ValueError, TypeError):  # none; no date; one without a time zone
        return None


def read_rate_limits(headers: Mapping[str, str]) -> RateLimits | None:
    """Read what is left of requests and tokens, and when there is more; None where the provider does not say."""
    requests = _read_first_int(headers, "x-ratelimit-remaining-requests", "anthropic-ratelimit-requests-remaining")
    tokens = _read_first_int(headers, "x-ratelimit-remaining-tokens", "anthropic-ratelimit-tokens-remaining")
    if requests is None and tokens is None:
        return None
    return RateLimits(
        requests,
        tokens,
        _read_reset(headers, "x-ratelimit-reset-requests", "anthropic-ratelimit-requests-reset"),
        _read_reset(headers, "x-ratelimit-reset-tokens", "anthropic-ratelimit-tokens-reset"),
        _read_first_int(headers, "x-ratelimit-limit-requests", "anthropic-ratelimit-requests-limit"),
        _read_first_int(headers, "x-ratelimit-limit-tokens", "anthropic-ratelimit-tokens-limit"),
    )


def _read_first_int(headers: Mapping[str, str], *names: str) -> int | None:
    for name in names:
        try:
            return int(headers[name])
        except (KeyError, ValueError):
            continue
    return None


def _read_reset(headers: Mapping[str, str], span: str, moment: str) -> float | None:
    """Return in how many seconds: OpenAI writes a span of time, `6m0s`, Anthropic a moment."""
    if written := headers.get(span):
        parts = _DURATION_PARTS.findall(written)
        return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts) if parts else None
    try:
        return _seconds_until(datetime.fromisoformat(headers[moment]))
    except (KeyError, ValueError, TypeError):
        return None


def _seconds_until(moment: datetime) -> float:
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
