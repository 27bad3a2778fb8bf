"""What the SDKs that Speakeasy generates have in common: the Interactions of google-genai, and others.

All requests pass `BaseSDK.do_request` or `AsyncBaseSDK.do_request_async`, with retries inside. Both return an HTTP
response, also if it is an error that is not retried. Each attempt begins with the hook `before_request`. The pause
between two attempts is a plain sleep, whose length `_get_sleep_interval` computes from what the attempt failed with.
"""

from collections.abc import Callable
from typing import Any

from loco_otel.patching.adapter import Adapter
from loco_otel.patching.arguments import NamedArguments
from loco_otel.patching.attempt_wrappers import resume_suspended_call, resume_suspended_call_async
from loco_otel.patching.call import Call
from loco_otel.patching.event_stream import follow_event_stream
from loco_otel.patching.response_body import follow_answer
from loco_otel.patching.target import Target
from loco_otel.patching.wrappers import Wrapper, observe_attempt, suspend_slot, wrap_async_call, wrap_call

_REQUEST = NamedArguments(("hook_ctx", "request", "is_error_status_code", "stream", "retry_config"))
_ATTEMPT = NamedArguments(("hook_ctx", "request"))


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


def follow_response(call: Call, response: Any) -> None:
    """End a call whose response is complete or an error, or tie its end to that of its stream of events."""
    if response.is_error:
        try:
            response.raise_for_status()
        except Exception as error:
            call.fail_call(error)
    elif not response.is_closed and "event-stream" in response.headers.get("content-type", ""):
        follow_event_stream(call, response)
    else:
        follow_answer(call, response)


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
