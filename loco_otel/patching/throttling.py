"""What a provider's refusal contains: how long to wait, how much is left, and whether its reason is load."""

import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from loco_otel.events import THROTTLE_STATUSES, RateLimits, ThrottleKind
from loco_otel.patching.adapter import Adapter
from loco_otel.patching.dialects.rate_limit_headers import (
    find_forwarded_headers,
    read_rate_limits,
    read_retry_after,
    read_retry_info,
)
from loco_otel.patching.refusal import Refusal, RefusalReader

_READ_TIMEOUT_CLASSES = frozenset(
    {
        *("ReadTimeout", "SocketTimeoutError", "TimeoutError", "ReadTimeoutError", "AioReadTimeoutError", "Timeout"),
        "ServiceResponseTimeoutError",
    }
)
"""Classes of httpx, httpx2, aiohttp, botocore, aiobotocore, azure-core and LiteLLM that mean that a provider did not
answer in time a request that was sent."""
_TIMEOUT_CLASSES = _READ_TIMEOUT_CLASSES | {
    *("ConnectTimeout", "WriteTimeout", "ServerTimeoutError", "ConnectTimeoutError"),
    "ServiceRequestTimeoutError",
}
"""All that mean so. `PoolTimeout` is the program's own."""


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
        adapter: recognizes an account without credit, and errors within a stream.
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
        # It began well and was broken off; its headers are from before.
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
    retry_after = read_retry_after(headers)
    if retry_after is None:
        retry_after = read_retry_info(body)
    limits = read_rate_limits(headers)
    if (retry_after is None or limits is None) and (forwarded := find_forwarded_headers(body)):
        retry_after = read_retry_after(forwarded) if retry_after is None else retry_after
        limits = limits or read_rate_limits(forwarded)
    return ThrottleSignal(status, kind, retry_after, limits)


def _read_refusal(adapter: Adapter, refusal: Refusal) -> ThrottleSignal | None:
    """Return what a refusal means to the scheduler; None where it is not about load."""
    status, headers, body, in_stream, retry_after = refusal
    if status not in THROTTLE_STATUSES:
        return None
    if in_stream:
        return ThrottleSignal(status, ThrottleKind.LOAD, None, None)  # its headers are from before
    spent = status == 429 and isinstance(body, Mapping) and adapter.is_spend_limit(body)  # noqa: PLR2004
    kind = ThrottleKind.SPEND if spent else ThrottleKind.LOAD
    if retry_after is None:
        retry_after = read_retry_info(body)
    if retry_after is None:
        retry_after = read_retry_after(headers)
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
