"""The pause before the next attempt: a plain sleep, whose length a function computes."""

import sys
from collections.abc import Callable
from typing import Any

from loco_otel.patching import Adapter, wrappers


def suspend_before_pause(adapter: Adapter) -> wrappers.Wrapper:
    """Give the slot back when the length of a pause is computed; the next attempt asks for it again."""

    def wrapper(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        wrappers.suspend_slot(adapter, kwargs.get("response"), sys.exception())
        return wrapped(*args, **kwargs)

    return wrapper
