"""Calls of both SDKs, in the simplest form of each, written once for sync and async clients."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
from sdk_server import LlmServer
from sdk_versions import has

PROMPT = "tell me about the harbour"
CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": PROMPT}]}
MESSAGE: dict[str, Any] = {
    "model": "claude-sonnet-5",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": PROMPT}],
}

_Result = TypeVar("_Result")


async def now(value: Any) -> Any:
    """Return what a sync client returned, or await what an async one did."""
    return await value if inspect.isawaitable(value) else value


async def each(items: Any) -> AsyncIterator[Any]:
    """Iterate over either colour."""
    if hasattr(items, "__aiter__"):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


@asynccontextmanager
async def opened(manager: Any) -> AsyncIterator[Any]:
    """Enter either colour."""
    if hasattr(manager, "__aenter__"):
        async with manager as value:
            yield value
    else:
        with manager as value:
            yield value


def finished(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a coroutine that calls sync clients only, so that it never really awaits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: _Result = end.value
        return result
    raise AssertionError("a sync client made its caller wait")


class Sdk:
    """One SDK, through clients of one colour."""

    def __init__(self, name: str, *, is_async: bool) -> None:
        self.name = name
        self.is_async = is_async

    def __str__(self) -> str:
        return f"{'async-' if self.is_async else ''}{self.name}"

    def client(self, server: LlmServer, **options: Any) -> Any:
        make = getattr(server, f"async_{self.name}" if self.is_async else self.name)
        return make(**options)

    def run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run(coroutine) if self.is_async else finished(coroutine)

    def ask(self, client: Any, **options: Any) -> Any:
        """Make a call for a whole answer."""
        if self.name == "openai":
            return client.chat.completions.create(**CHAT, **options)
        return client.messages.create(**MESSAGE, **options)

    def stream(self, client: Any, **options: Any) -> Any:
        """Make a call for a stream."""
        return self.ask(client, stream=True, **options)

    def streaming(self, client: Any) -> Any:
        """Return the SDK's helper for streams, a context manager."""
        if self.name == "anthropic":
            return client.messages.stream(**MESSAGE)
        completions = client.chat.completions if has("openai", "1.92") else client.beta.chat.completions
        return completions.stream(**CHAT)

    def raw(self, client: Any) -> Any:
        """Return the calls whose answer is the HTTP response."""
        return client.chat.completions.with_raw_response if self.name == "openai" else client.messages.with_raw_response


SDKS = [Sdk(name, is_async=is_async) for name in ("openai", "anthropic") for is_async in (False, True)]

each_sdk: Callable[..., Any] = pytest.mark.parametrize("sdk", SDKS, ids=str)
each_sync_sdk: Callable[..., Any] = pytest.mark.parametrize("sdk", [it for it in SDKS if not it.is_async], ids=str)
each_async_sdk: Callable[..., Any] = pytest.mark.parametrize("sdk", [it for it in SDKS if it.is_async], ids=str)
