"""The pause of azure-core's retry policy, which has the response of the attempt, or the error in which it ended."""

import sys
from collections.abc import Callable
from typing import Any

from loco_otel.patching import Adapter, wrappers


class AttemptRefusedError(Exception):
    """The refusal of one attempt. Its `response` is that of the `HttpResponseError` that the SDK raises at the end."""

    def __init__(self, response: Any) -> None:
        super().__init__("an attempt failed")
        self.response = response


def wrap_pause(adapter: Adapter) -> wrappers.Wrapper:
    """Give the slot back for the length of `RetryPolicy.sleep(settings, transport, response=None)`."""

    def wrapper(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ticket = wrappers.suspend_slot(adapter, None, _find_failure(kwargs))
        wrapped(*args, **kwargs)
        if ticket is not None:
            wrappers.resume_slot(ticket)

    return wrapper


def wrap_async_pause(adapter: Adapter) -> wrappers.Wrapper:
    """Do as `wrap_pause`, for `AsyncRetryPolicy`."""

    async def wrapper(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ticket = wrappers.suspend_slot(adapter, None, _find_failure(kwargs))
        await wrapped(*args, **kwargs)
        if ticket is not None:
            await wrappers.resume_slot_async(ticket)

    return wrapper


def _find_failure(kwargs: dict[str, Any]) -> BaseException | None:
    response = kwargs.get("response")
    return sys.exception() if response is None else AttemptRefusedError(response.http_response)
