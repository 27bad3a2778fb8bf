"""The decision on a retry, which botocore's handlers of an event take in `Endpoint._needs_retry`, before it sleeps.

The handlers differ by retry mode and can be the program's own. What they decided is seen at the emitter of the event.
"""

from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from typing import Any

_ARGUMENTS = ("attempts", "operation_model", "request_dict", "response", "caught_exception")
"""Of `Endpoint._needs_retry`."""

_FIRST_ERROR_STATUS = 300


class AttemptError(Exception):
    """An error response of one attempt. Its `response` is that of the `ClientError` that botocore raises at the end."""

    def __init__(self, response: Mapping[str, Any]) -> None:
        super().__init__("an attempt failed")
        self.response = response


def find_failure(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> BaseException | None:
    """Return what an attempt failed with; None if it did not fail."""
    given = {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}
    error: BaseException | None = given.get("caught_exception")
    response = given.get("response")
    if error is not None or response is None:
        return error
    http_response, parsed = response
    return AttemptError(parsed) if http_response.status_code >= _FIRST_ERROR_STATUS else None


def watch_decision(wrapped: Callable[..., Any], endpoint: Any, on_retry: Callable[[], None]) -> Callable[..., Any]:
    """Return a `_needs_retry` that calls `on_retry` before it sleeps.

    It runs on a copy of the endpoint, which other threads use at the same time.
    """
    return _bind_to_copy(wrapped, endpoint, _WatchedEmitter(endpoint._event_emitter, on_retry))


def watch_async_decision(
    wrapped: Callable[..., Any], endpoint: Any, on_retry: Callable[[], None]
) -> Callable[..., Any]:
    """Do as `watch_decision`, for aiobotocore."""
    return _bind_to_copy(wrapped, endpoint, _AsyncWatchedEmitter(endpoint._event_emitter, on_retry))


def _bind_to_copy(wrapped: Any, endpoint: Any, emitter: "_WatchedEmitter") -> Callable[..., Any]:
    twin = copy(endpoint)
    twin._event_emitter = emitter
    return partial(wrapped.__func__, twin)


class _WatchedEmitter:
    """An emitter whose handlers' decision is seen."""

    def __init__(self, inner: Any, on_retry: Callable[[], None]) -> None:
        self._inner = inner
        self._on_retry = on_retry

    def emit(self, event_name: str, **kwargs: Any) -> Any:
        """Emit an event, and return its handlers' answers."""
        responses = self._inner.emit(event_name, **kwargs)
        self._record_decision(responses)
        return responses

    def _record_decision(self, responses: Any) -> None:
        # The first answer decides: a delay in seconds, or False.
        delay = next((response for _, response in responses if response is not None), None)
        if delay is not None and delay is not False:
            self._on_retry()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _AsyncWatchedEmitter(_WatchedEmitter):
    """aiobotocore's."""

    async def emit(self, event_name: str, **kwargs: Any) -> Any:
        """Emit an event, and return its handlers' answers."""
        responses = await self._inner.emit(event_name, **kwargs)
        self._record_decision(responses)
        return responses
