"""Clients of Bedrock's runtime that call a test server: of boto3, and of aiobotocore where that is installed."""

from contextlib import AsyncExitStack
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import boto3

CREDENTIALS = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
REGION = "us-east-1"

AIOBOTOCORE = import_module("aiobotocore.session") if find_spec("aiobotocore") else None
"""None if it is not installed: it requires a botocore that is older than the newest."""


def make_bedrock(*, base_url: str, **options: Any) -> Any:
    """Return a client of boto3."""
    options.pop("api_key", None)
    session = boto3.Session(region_name=REGION, **CREDENTIALS)
    return session.client("bedrock-runtime", endpoint_url=base_url, **options)


class AsyncBedrock:
    """A client of aiobotocore, which is made with the first call in the loop that runs then."""

    def __init__(self, *, base_url: str, **options: Any) -> None:
        options.pop("api_key", None)
        self._options = {"endpoint_url": base_url, "region_name": REGION, **CREDENTIALS, **options}
        self._stack = AsyncExitStack()
        self._client: Any = None

    async def open_client(self) -> Any:
        if self._client is None:
            assert AIOBOTOCORE is not None
            manager = AIOBOTOCORE.get_session().create_client("bedrock-runtime", **self._options)
            client = await self._stack.enter_async_context(manager)
            self._client = self._client or client
        return self._client

    async def close(self) -> None:
        await self._stack.aclose()


def open_conversation(client: Any, *, model: str, messages: list[dict[str, str]], stream: bool) -> Any:
    """Call Converse or, for a stream, ConverseStream."""
    contents = [{"role": message["role"], "content": [{"text": message["content"]}]} for message in messages]
    request = {"modelId": model, "messages": contents, "inferenceConfig": {"maxTokens": 64}}
    if isinstance(client, AsyncBedrock):
        return _open_conversation_async(client, request, stream=stream)
    return client.converse_stream(**request)["stream"] if stream else client.converse(**request)


async def _open_conversation_async(client: AsyncBedrock, request: dict[str, Any], *, stream: bool) -> Any:
    real = await client.open_client()
    if not stream:
        return await real.converse(**request)
    return (await real.converse_stream(**request))["stream"]
