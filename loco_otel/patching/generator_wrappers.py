"""The wrapper around a generator function, whose request is sent when its first chunk is asked for."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any

from loco_otel.patching.adapter import Adapter
from loco_otel.patching.arguments import Arguments
from loco_otel.patching.call_setup import start_call
from loco_otel.patching.iterator_body import iterate_body
from loco_otel.patching.wrappers import Wrapper, acquire_slot, replace_request, try_fail_call


def wrap_generator(adapter: Adapter, arguments: Arguments) -> Wrapper:
    """Schedule a sync generator function: the slot is acquired with the first chunk."""

    def wrapper(
        wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Iterator[Any]:
        call = start_call(adapter, client, arguments.read_request(args, kwargs), wrapped)
        if call is None or not acquire_slot(call):
            yield from wrapped(*args, **kwargs)
            return
        args, kwargs = replace_request(call, arguments, args, kwargs)
        inner = wrapped(*args, **kwargs)
        call.enter_sdk_call()
        # Attempts and pauses happen before the first chunk, and only there must they find the call's ticket.
        first = []
        try:
            with suppress(StopIteration):
                first.append(next(inner))
        except BaseException as error:
            try_fail_call(call, error)
            raise
        finally:
            call.exit_sdk_call()
        try:
            yield from iterate_body(call, chain(first, inner))
        except GeneratorExit:
            inner.close()  # the connection, before the slot
            call.abandon_call()
            raise

    return wrapper
