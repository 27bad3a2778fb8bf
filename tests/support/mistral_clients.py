"""Clients of Mistral's SDK, of both of its layouts, that call a test server."""

from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from importlib.metadata import version
from typing import Any

from packaging.version import Version

PACKAGE = "mistralai" if Version(version("mistralai")) < Version("2") else "mistralai.client"

_MILLISECONDS = 10


class MistralClient:
    """A sync client, which repeats requests: by default the SDK does not."""

    def __init__(self, *, base_url: str, api_key: str = "fake", repeats: bool = True) -> None:
        utils = import_module(f"{PACKAGE}.utils.retries")
        backoff = utils.BackoffStrategy(_MILLISECONDS, _MILLISECONDS, 1.0, 60_000)
        retries = {"retry_config": utils.RetryConfig("backoff", backoff, False)} if repeats else {}
        self.real = import_module(PACKAGE).Mistral(api_key=api_key, server_url=base_url, **retries)

    def chat(self, *, stream: bool, **request: Any) -> Any:
        """Make a call."""
        return SyncStream(self.real.chat.stream(**request)) if stream else self.real.chat.complete(**request)

    def close(self) -> None:
        self.real.__exit__(None, None, None)


class AsyncMistralClient(MistralClient):
    """An async client."""

    async def chat(self, *, stream: bool, **request: Any) -> Any:
        if stream:
            return AsyncStream(await self.real.chat.stream_async(**request))
        return await self.real.chat.complete_async(**request)

    async def aclose(self) -> None:
        await self.real.__aexit__(None, None, None)


class SyncStream:
    """A stream that can be closed: those of older versions only by the end of a `with` block."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __iter__(self) -> Iterator[Any]:
        return iter(self._real)

    def close(self) -> None:
        self._real.__exit__(None, None, None)


class AsyncStream:
    """As `SyncStream`."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __aiter__(self) -> AsyncIterator[Any]:
        return aiter(self._real)

    async def aclose(self) -> None:
        await self._real.__aexit__(None, None, None)


def create_mistral_chat(client: MistralClient, **request: Any) -> Any:
    """Make a call of either colour."""
    return client.chat(**request)
