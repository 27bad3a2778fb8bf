"""What a provider's refusal says: how long to stay away, how much is left, and whether it is about load at all."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from loco_otel.events import RateLimits, ThrottleKind
from loco_otel.patching.adapter import Adapter

THROTTLES = frozenset({429, 503, 529})
"""Too many requests; unavailable, which providers send when overloaded; overloaded."""


class Pushback(NamedTuple):
    """One refusal."""

    status: int
    kind: ThrottleKind
    retry_after: float | None
    """Seconds."""
    limits: RateLimits | None


def read_pushback(adapter: Adapter, response: Any, body: object = None) -> Pushback | None:
    """Read an HTTP response; None when it is no refusal.

    Args:
        adapter: knows the provider's words for an empty account.
        response: an httpx or httpx2 response, or None.
        body: its parsed JSON, where the SDK has it already.

    """
    status = getattr(response, "status_code", None)
    if status not in THROTTLES:
        return None
    headers: Mapping[str, str] = response.headers
    if body is None:
        body = _json(response)
    spent = status == 429 and isinstance(body, Mapping) and adapter.is_spend_limit(body)  # noqa: PLR2004
    return Pushback(status, ThrottleKind.SPEND if spent else ThrottleKind.LOAD, _retry_after(headers), _limits(headers))


def _json(response: Any) -> object:
    # Only what is in memory already: the body of a streamed request's refusal is never read by the SDK.
    content = getattr(response, "_content", None)
    try:
        return json.loads(content) if content else None
    except ValueError:
        return None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return seconds; `retry-after` may also be a date, which the SDKs do not honour as a pause beyond a minute."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return float(headers[name]) * scale
        except (KeyError, ValueError):
            continue
    return None


def _limits(headers: Mapping[str, str]) -> RateLimits | None:
    requests = _first_int(headers, "x-ratelimit-remaining-requests", "anthropic-ratelimit-requests-remaining")
    tokens = _first_int(headers, "x-ratelimit-remaining-tokens", "anthropic-ratelimit-tokens-remaining")
    return None if requests is None and tokens is None else RateLimits(requests, tokens)


def _first_int(headers: Mapping[str, str], *names: str) -> int | None:
    for name in names:
        try:
            return int(headers[name])
        except (KeyError, ValueError):
            continue
    return None
