"""Clients of httpx and httpx2 that call a model without an SDK, and read its answers as programs do."""

from collections.abc import AsyncIterator, Iterator
from types import ModuleType
from typing import Any


class HttpClient:
    """A sync client for one endpoint."""

    def __init__(self, package: ModuleType, path: str, *, base_url: str, **_: Any) -> None:
        self.real = package.Client(base_url=base_url, timeout=None)
        self.path = path

    def send(self, body: dict[str, Any], *, stream: bool) -> Any:
        """Make a call; raise where it was refused."""
        response = self.real.send(self.real.build_request("POST", self.path, json=body), stream=stream)
        if response.is_error:
            response.close()
            response.raise_for_status()
        return SyncLines(response) if stream else response.json()

    def close(self) -> None:
        self.real.close()


class AsyncHttpClient:
    """As `HttpClient`."""

    def __init__(self, package: ModuleType, path: str, *, base_url: str, **_: Any) -> None:
        self.real = package.AsyncClient(base_url=base_url, timeout=None)
        self.path = path

    async def send(self, body: dict[str, Any], *, stream: bool) -> Any:
        response = await self.real.send(request=self.real.build_request("POST", self.path, json=body), stream=stream)
        if response.is_error:
            await response.aclose()
            response.raise_for_status()
        return AsyncLines(response) if stream else response.json()

    async def aclose(self) -> None:
        await self.real.aclose()


class SyncLines:
    """The lines of a streamed response. It keeps the iterator: one that is dropped closes the connection."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self._lines: Iterator[str] = response.iter_lines()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._lines)

    def close(self) -> None:
        self._response.close()


class AsyncLines:
    """As `SyncLines`."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self._lines: AsyncIterator[str] = response.aiter_lines()

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        return await anext(self._lines)

    async def aclose(self) -> None:
        await self._response.aclose()


def send_request(client: HttpClient | AsyncHttpClient, *, stream: bool, **body: Any) -> Any:
    """Make a call of either colour, and ask for the usage of a stream."""
    if client.path.endswith("messages"):
        body["max_tokens"] = 64
    elif stream:
        body["stream_options"] = {"include_usage": True}
    return client.send({**body, "stream": stream}, stream=stream)
