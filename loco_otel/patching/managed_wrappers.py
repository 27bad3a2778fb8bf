"""The wrappers around methods that return a context manager, whose request is sent when it is entered."""

from collections.abc import Callable
from typing import Any

from loco_otel.patching.adapter import Adapter
from loco_otel.patching.arguments import Arguments
from loco_otel.patching.call import Call
from loco_otel.patching.call_setup import start_call
from loco_otel.patching.wrappers import (
    Follow,
    Wrapper,
    acquire_slot,
    acquire_slot_async,
    replace_request,
    try_fail_call,
    try_follow_answer,
)


def wrap_managed(adapter: Adapter, arguments: Arguments, follow: Follow) -> Wrapper:
    """Schedule a method that returns a sync context manager: the slot is acquired when it is entered."""
    return _wrap_manager(_SyncManager, adapter, arguments, follow)


def wrap_async_managed(adapter: Adapter, arguments: Arguments, follow: Follow) -> Wrapper:
    """Schedule a method that returns an async context manager: the slot is acquired when it is entered."""
    return _wrap_manager(_AsyncManager, adapter, arguments, follow)


def _wrap_manager(kind: type["_Manager"], adapter: Adapter, arguments: Arguments, follow: Follow) -> Wrapper:
    def wrapper(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = arguments.read_request(args, kwargs)

        def start() -> Call | None:
            return start_call(adapter, client, given, wrapped)

        def make_inner(call: Call | None) -> Any:
            if call is None:
                return wrapped(*args, **kwargs)
            sent_args, sent_kwargs = replace_request(call, arguments, given, args, kwargs)
            return wrapped(*sent_args, **sent_kwargs)

        return kind(start, make_inner, follow)

    return wrapper


class _Manager:
    """What both colours keep until the manager is entered."""

    def __init__(
        self, start: Callable[[], Call | None], make_inner: Callable[[Call | None], Any], follow: Follow
    ) -> None:
        self._start_call = start
        self._make_inner = make_inner
        self._follow = follow
        self._inner: Any = None


class _SyncManager(_Manager):
    """A sync context manager."""

    def __enter__(self) -> Any:
        call = self._start_call()
        if call is None or not acquire_slot(call):
            self._inner = self._make_inner(None)
            return self._inner.__enter__()
        self._inner = self._make_inner(call)
        call.enter_sdk_call()
        try:
            answer = self._inner.__enter__()
        except BaseException as error:
            try_fail_call(call, error)
            raise
        finally:
            call.exit_sdk_call()
        return try_follow_answer(call, answer, self._follow)

    def __exit__(self, *error: object) -> Any:
        return self._inner.__exit__(*error)


class _AsyncManager(_Manager):
    """An async context manager."""

    async def __aenter__(self) -> Any:
        call = self._start_call()
        if call is None or not await acquire_slot_async(call):
            self._inner = self._make_inner(None)
            return await self._inner.__aenter__()
        self._inner = self._make_inner(call)
        call.enter_sdk_call()
        try:
            answer = await self._inner.__aenter__()
        except BaseException as error:
            try_fail_call(call, error)
            raise
        finally:
            call.exit_sdk_call()
        return try_follow_answer(call, answer, self._follow)

    async def __aexit__(self, *error: object) -> Any:
        return await self._inner.__aexit__(*error)
