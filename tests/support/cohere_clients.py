"""Calls of Cohere's clients, of both versions of its API, that can be closed in any of its versions."""

from typing import Any

import cohere
import httpx


class CohereClient:
    """A sync client of version 2."""

    def __init__(self, *, base_url: str, api_key: str = "fake") -> None:
        self._http = httpx.Client()
        self.real = self._make_real(base_url=base_url, api_key=api_key)

    def _make_real(self, **where: str) -> Any:
        return cohere.ClientV2(**where, httpx_client=self._http)

    def chat(self, *, stream: bool, **request: Any) -> Any:
        """Make a call."""
        return self.real.chat_stream(**request) if stream else self.real.chat(**request)

    def close(self) -> None:
        self._http.close()


class OldCohereClient(CohereClient):
    """A sync client of version 1, whose request is one message."""

    def _make_real(self, **where: str) -> Any:
        return cohere.Client(**where, httpx_client=self._http)

    def chat(self, *, stream: bool, messages: list[dict[str, str]], **request: Any) -> Any:
        """Make a call."""
        return super().chat(stream=stream, message=messages[0]["content"], **request)


class AsyncCohereClient:
    """An async client of version 2."""

    def __init__(self, *, base_url: str, api_key: str = "fake") -> None:
        self._http = httpx.AsyncClient()
        self.real = self._make_real(base_url=base_url, api_key=api_key)

    def _make_real(self, **where: str) -> Any:
        return cohere.AsyncClientV2(**where, httpx_client=self._http)

    async def chat(self, *, stream: bool, **request: Any) -> Any:
        """Make a call."""
        return self.real.chat_stream(**request) if stream else await self.real.chat(**request)

    async def close(self) -> None:
        await self._http.aclose()


class OldAsyncCohereClient(AsyncCohereClient):
    """An async client of version 1."""

    def _make_real(self, **where: str) -> Any:
        return cohere.AsyncClient(**where, httpx_client=self._http)

    async def chat(self, *, stream: bool, messages: list[dict[str, str]], **request: Any) -> Any:
        """Make a call."""
        return await super().chat(stream=stream, message=messages[0]["content"], **request)


def create_cohere_chat(client: Any, **request: Any) -> Any:
    """Make a call of either colour and version."""
    return client.chat(**request)
