"""LiteLLM, where the SDK of OpenAI is of a version that it requires, and calls of it through a client's shape."""

import asyncio
import gc
import inspect
import os
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any

import openai
import pytest
from sdk_versions import has

# Otherwise its import fetches a list of prices.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"


def close_event_loop() -> None:
    """Close the event loop that a sync call of LiteLLM makes for its thread."""
    with suppress(RuntimeError):
        asyncio.get_event_loop_policy().get_event_loop().close()
    asyncio.set_event_loop(None)


def close_sync_clients() -> None:
    """Close the clients that LiteLLM keeps for ten minutes, which a later test may otherwise collect."""
    cache = LITELLM.in_memory_llm_clients_cache
    for key, client in list(cache.cache_dict.items()):
        close = getattr(client, "close", None)
        if close is not None and not inspect.iscoroutinefunction(close):
            cache.delete_cache(key)
            close()


LITELLM: Any = import_module("litellm") if has("openai", "2.20") else None
"""None where an older version of OpenAI's SDK is tested."""
if LITELLM is not None:
    LITELLM.suppress_debug_info = True
    for provider in ("openai", "anthropic"):
        # The first call of each imports more, which takes seconds on a busy machine. This one fails.
        with suppress(openai.APIError):
            LITELLM.completion(f"{provider}/m", [], api_base="http://127.0.0.1:1", api_key="fake", max_retries=0)
    close_event_loop()


MARKS = [
    pytest.mark.skipif(LITELLM is None, reason="this pair's SDK of OpenAI is older than LiteLLM requires"),
    # What LiteLLM imports with its first stream, and how it copies the chunk with the usage.
    pytest.mark.filterwarnings("ignore:Accessing the 'model_.*' attribute on the instance is deprecated"),
    pytest.mark.filterwarnings("ignore:Item .* is using the `ReadOnly` qualifier:UserWarning"),
    # It drops its clients without closing them.
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"),
]
"""Those of a module of tests, which takes `closed_clients` by assignment."""


@pytest.fixture(autouse=True)
def closed_clients() -> Iterator[None]:
    """Close after a test what LiteLLM keeps."""
    yield
    close_sync_clients()
    close_event_loop()
    gc.collect()  # what it has dropped is collected while its warnings are ignored


class _Client:
    """Keeps what each call of a provider needs."""

    def __init__(self, provider: str, *, is_async: bool, **options: Any) -> None:
        self._prefix = f"{provider}/"
        self._call = LITELLM.acompletion if is_async else LITELLM.completion
        self._options = options

    def create(self, model: str, **request: Any) -> Any:
        return self._call(model=self._prefix + model, **self._options, **request)

    def close(self) -> None:
        """Close the clients that LiteLLM keeps for later sync calls."""
        close_sync_clients()


class _AsyncClient(_Client):
    """A client of coroutines."""

    async def aclose(self) -> None:
        """Close the clients that LiteLLM keeps for this event loop, and end its tasks, as `asyncio.run` does."""
        await LITELLM.close_litellm_async_clients()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def make_litellm(provider: str, *, is_async: bool, base_url: str, **options: Any) -> Any:
    """Return a client of one route; with the retries that an SDK of OpenAI makes by default."""
    return (_AsyncClient if is_async else _Client)(
        provider, is_async=is_async, api_base=base_url, num_retries=2, **options
    )
