"""What the SDKs that Speakeasy generates have in common: the Interactions of google-genai, and others.

All requests pass `BaseSDK.do_request` or `AsyncBaseSDK.do_request_async`, with retries inside. Both return an HTTP
response, also if it is an error that is not retried. Each attempt begins with the hook `before_request`. The pause
between two attempts is a plain sleep, whose length `_get_sleep_interval` computes from what the attempt failed with.

Packages of another generation have one class for both colours. Their hooks are sync, and run in a worker thread for
async requests, so nothing may wait in them: the slot is given back and asked for again around each attempt, which
`retry_with_backoff` gets as a function.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from loco_otel.patching.adapter import Adapter
from loco_otel.patching.arguments import NamedArguments
from loco_otel.patching.attempt_wrappers import resume_suspended_call, resume_suspended_call_async
from loco_otel.patching.event_stream import follow_response
from loco_otel.patching.http_request import replace_json_values
from loco_otel.patching.target import Target
from loco_otel.patching.wrappers import Wrapper, observe_attempt, suspend_slot, wrap_async_call, wrap_call

_REQUEST = NamedArguments(("hook_ctx", "request", "is_error_status_code", "stream", "retry_config"))
_ATTEMPT = NamedArguments(("hook_ctx", "request"))
_FINAL_ERROR = "PermanentError"
"""The class of what an attempt raises that is not repeated."""


def build_targets(adapter: Adapter, package: str) -> tuple[Target, ...]:
    """Return what to wrap of a package that Speakeasy generated.

    A request, for the adapter, is the arguments of `do_request` by name: `hook_ctx.operation_id` names the operation,
    and `request` is that of httpx or httpx2.
    """
    base, hooks = f"{package}.basesdk", f"{package}._hooks"
    return (
        Target(base, "BaseSDK", "do_request", wrap_call(adapter, _REQUEST, follow_response)),
        Target(base, "AsyncBaseSDK", "do_request_async", wrap_async_call(adapter, _REQUEST, follow_response)),
        Target(f"{hooks}.sdkhooks", "SDKHooks", "before_request", _start_attempt(adapter)),
        Target(f"{hooks}.asyncsdkhooks", "AsyncSDKHooks", "before_request", _start_async_attempt(adapter)),
        Target(f"{package}.utils.retries", None, "_get_sleep_interval", _suspend_before_pause(adapter)),
    )


def build_single_class_targets(adapter: Adapter, package: str) -> tuple[Target, ...]:
    """Return what to wrap of a package with one class for both colours. See `build_targets` for the requests."""
    base, retries = f"{package}.basesdk", f"{package}.utils.retries"
    return (
        Target(base, "BaseSDK", "do_request", wrap_call(adapter, _REQUEST, follow_response)),
        Target(base, "BaseSDK", "do_request_async", wrap_async_call(adapter, _REQUEST, follow_response)),
        Target(f"{package}._hooks.sdkhooks", "SDKHooks", "before_request", observe_attempt(adapter, _ATTEMPT)),
        Target(retries, None, "retry_with_backoff", _wrap_attempts(adapter)),
        Target(retries, None, "retry_with_backoff_async", _wrap_async_attempts(adapter)),
    )


def read_json(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON of a request, which is the arguments of `do_request` by name."""
    body: dict[str, Any] = json.loads(request["request"].content)
    return body


def replace_json(request: Mapping[str, Any], values: Mapping[str, object]) -> dict[str, Any]:
    """Return a request with other values in its JSON; the one given is left as it is."""
    return {**request, "request": replace_json_values(request["request"], values)}


def _start_attempt(adapter: Adapter) -> Wrapper:
    observe = observe_attempt(adapter, _ATTEMPT)

    def wrapper(wrapped: Callable[..., Any], hooks: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        resume_suspended_call()
        return observe(wrapped, hooks, args, kwargs)

    return wrapper


def _start_async_attempt(adapter: Adapter) -> Wrapper:
    observe = observe_attempt(adapter, _ATTEMPT)

    async def wrapper(wrapped: Callable[..., Any], hooks: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        await resume_suspended_call_async()
        return await observe(wrapped, hooks, args, kwargs)

    return wrapper


def _suspend_before_pause(adapter: Adapter) -> Wrapper:
    """Release the slot for the pause whose length is computed, of either colour; the next attempt queues again."""

    def wrapper(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        error = args[0] if args else kwargs.get("exception")
        suspend_slot(adapter, getattr(error, "response", None), error)
        return wrapped(*args, **kwargs)

    return wrapper


def _wrap_attempts(adapter: Adapter) -> Wrapper:
    """Hold the slot for the length of each attempt of `retry_with_backoff(attempt, ...)`."""

    def wrapper(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        make_attempt, *rest = args

        def attempt(*given: Any) -> Any:
            resume_suspended_call()
            try:
                return make_attempt(*given)
            except Exception as error:
                _suspend_after(adapter, error)
                raise

        return wrapped(attempt, *rest, **kwargs)

    return wrapper


def _wrap_async_attempts(adapter: Adapter) -> Wrapper:
    """Hold the slot for the length of each attempt of `retry_with_backoff_async(attempt, ...)`."""

    def wrapper(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        make_attempt, *rest = args

        async def attempt(*given: Any) -> Any:
            await resume_suspended_call_async()
            try:
                return await make_attempt(*given)
            except Exception as error:
                _suspend_after(adapter, error)
                raise

        return wrapped(attempt, *rest, **kwargs)

    return wrapper


def _suspend_after(adapter: Adapter, error: Exception) -> None:
    if type(error).__name__ != _FINAL_ERROR:
        suspend_slot(adapter, getattr(error, "response", None), error)
