"""LiteLLM's retries: `num_retries` has a failed call made again by a function, with pauses that are no function.

The call's first attempt has failed when the function is called. It is given the function to try again.
"""

import sys
from collections.abc import Callable
from typing import Any

from loco_otel.patching import Adapter, attempt_wrappers
from loco_otel.patching.wrappers import Wrapper

_ORIGINAL = "original_function"


def wrap_retries(adapter: Adapter) -> Wrapper:
    """Give the slot back between the attempts of a sync call."""
    hold_slot = attempt_wrappers.wrap_attempt(adapter)

    def wrapper(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not attempt_wrappers.suspend_failed_call(adapter):
            return wrapped(*args, **kwargs)
        original = kwargs.get(_ORIGINAL) or sys.modules["litellm.main"].completion

        def attempt(*args: Any, **kwargs: Any) -> Any:
            return hold_slot(original, None, args, kwargs)

        return wrapped(*args, **{**kwargs, _ORIGINAL: attempt})

    return wrapper


def wrap_async_retries(adapter: Adapter) -> Wrapper:
    """Give the slot back between the attempts of an async call."""
    hold_slot = attempt_wrappers.wrap_async_attempt(adapter)

    async def wrapper(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        original = kwargs.get(_ORIGINAL)
        if original is None or not attempt_wrappers.suspend_failed_call(adapter):
            return await wrapped(*args, **kwargs)

        async def attempt(*args: Any, **kwargs: Any) -> Any:
            return await hold_slot(original, None, args, kwargs)

        return await wrapped(*args, **{**kwargs, _ORIGINAL: attempt})

    return wrapper
