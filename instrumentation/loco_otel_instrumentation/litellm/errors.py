"""LiteLLM's errors: which answer of a provider they are about.

LiteLLM raises an error of its own class, whose status is not always the provider's: Anthropic's 529 is a 500. What it
was made from is the error's context, and has the provider's status, headers and text.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from loco_otel.patching import Refusal

_UNANSWERED = frozenset({"Timeout", "APIConnectionError"})
"""Classes of errors of calls that got no answer. Their status is LiteLLM's invention."""
_PROVIDER_ERROR = "BaseLLMException"
_MAX_CAUSES = 3
_TOO_MANY_REQUESTS = 429


def read_refusal(error: BaseException, read_status: Callable[[Mapping[str, object]], int | None]) -> Refusal | None:
    """Read the provider's answer from an error; None where there was none.

    Args:
        error: raised by LiteLLM.
        read_status: returns the HTTP status of an error whose JSON came within a stream.

    """
    if type(error).__name__ in _UNANSWERED:
        return None
    for cause in _iterate_causes(error):
        status = getattr(cause, "status_code", None)
        if any(base.__name__ == _PROVIDER_ERROR for base in type(cause).__mro__):
            if getattr(cause, "status_code_is_synthesized", False) or not isinstance(status, int):
                return None
            return Refusal(status, _read_headers(cause), _read_body(cause) if status == _TOO_MANY_REQUESTS else None)
        body = getattr(cause, "body", None)
        if isinstance(body, Mapping) and status is None:
            # An error of OpenAI's SDK that came within a stream.
            found = read_status(body)
            return None if found is None else Refusal(found, body=body, in_stream=True)
    return None


def _iterate_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield what an error was made from."""
    for _ in range(_MAX_CAUSES):
        cause = error.__cause__ or error.__context__
        if cause is None:
            return
        yield cause
        error = cause


def _read_headers(cause: BaseException) -> Mapping[str, str]:
    headers: Mapping[str, str] | None = getattr(cause, "headers", None)
    if not headers:
        headers = getattr(getattr(cause, "response", None), "headers", None)
    return {name.lower(): value for name, value in (headers or {}).items()}


def _read_body(cause: BaseException) -> Any:
    """Return the JSON of an error: parsed by an SDK, or as text."""
    body = getattr(cause, "body", None)
    if isinstance(body, Mapping):
        return body
    try:
        return json.loads(str(getattr(cause, "message", "")))
    except ValueError:
        return None
