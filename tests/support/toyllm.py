"""The SDK of a provider that does not exist, with OpenAI's chat completions: the example of `docs/add-an-sdk.md`."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx

_PATH = "chat/completions"


class Client:
    """Makes calls; all requests pass `request` or `stream`."""

    def __init__(self, api_key: str, base_url: str) -> None:
        self._http = httpx.Client(base_url=base_url, headers={"authorization": f"Bearer {api_key}"})

    def chat(self, **body: Any) -> Any:
        return self.stream(_PATH, body) if body.get("stream") else self.request(_PATH, body)

    def request(self, path: str, body: dict[str, Any]) -> Any:
        return self._http.post(path, json=body).raise_for_status().json()

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[Any]:
        body = {**body, "stream_options": {"include_usage": True}}
        with self._http.stream("POST", path, json=body) as response:
            for line in response.raise_for_status().iter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line.removeprefix("data: "))

    def close(self) -> None:
        self._http.close()


class AsyncClient:
    """Does the same, without blocking."""

    def __init__(self, api_key: str, base_url: str) -> None:
        self._http = httpx.AsyncClient(base_url=base_url, headers={"authorization": f"Bearer {api_key}"})

    async def chat(self, **body: Any) -> Any:
        return await (self.stream(_PATH, body) if body.get("stream") else self.request(_PATH, body))

    async def request(self, path: str, body: dict[str, Any]) -> Any:
        return (await self._http.post(path, json=body)).raise_for_status().json()

    async def stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[Any]:
        body = {**body, "stream_options": {"include_usage": True}}
        request = self._http.build_request("POST", path, json=body)
        response = (await self._http.send(request, stream=True)).raise_for_status()
        return _read_events(response)

    async def close(self) -> None:
        await self._http.aclose()


async def _read_events(response: httpx.Response) -> AsyncIterator[Any]:
    try:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))
    finally:
        await response.aclose()
