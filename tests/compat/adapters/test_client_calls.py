"""The adapters of OpenAI's and Anthropic's SDKs: clients of both colours, streams, errors, several calls at a time."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import openai
import pytest
from library_callers import Run, Until
from llm_server import LlmServer
from loco_otel_instrumentation.anthropic import AnthropicInstrumentor
from loco_otel_instrumentation.openai import OpenAIInstrumentor
from patience import PATIENCE

import loco_otel
from loco_otel.adapters.anthropic import AnthropicAdapter
from loco_otel.adapters.openai import OpenAIAdapter
from loco_otel.adapters.openai import estimate_weight as estimate_openai_weight

MESSAGES = [{"role": "user", "content": "hello"}]
KEY = "sk-test"


class Sdk:
    """One SDK with clients of one colour."""

    def __init__(self, name: str, adapter: Any, client: Any, model: str) -> None:
        self.name, self._adapter, self._client, self.model = name, adapter, client, model

    def __str__(self) -> str:
        return self._client.__name__

    @asynccontextmanager
    async def open(self, scheduler: Any, server: LlmServer, **options: Any) -> AsyncIterator[Any]:
        client = self._client(api_key=KEY, base_url=server.url(self.name), timeout=PATIENCE, **options)
        try:
            yield self._adapter(scheduler, client)
        finally:
            await close(client)

    def is_error(self, error: BaseException) -> bool:
        return type(error).__name__ == "InternalServerError"


SDKS = [
    Sdk("openai", OpenAIAdapter, openai.AsyncOpenAI, "gpt-4o"),
    Sdk("openai", OpenAIAdapter, openai.OpenAI, "gpt-4o"),
    Sdk("anthropic", AnthropicAdapter, anthropic.AsyncAnthropic, "claude-opus-4-20250514"),
    Sdk("anthropic", AnthropicAdapter, anthropic.Anthropic, "claude-opus-4-20250514"),
]
each_sdk = pytest.mark.parametrize("sdk", SDKS, ids=str)


async def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return await asyncio.to_thread(function, *args, **kwargs)


async def read(stream: Any) -> int:
    """Read a stream of either colour, and return the number of its chunks."""
    if hasattr(stream, "__aiter__"):
        return len([chunk async for chunk in stream])
    return len(await in_thread(list, stream))


async def close(stream: Any) -> None:
    closed = stream.close()
    if closed is not None:
        await closed


@each_sdk
def test_d21d_calls_keep_capacity_and_run_the_loop(run: Run, server: LlmServer, scheduler: Any, sdk: Sdk) -> None:
    made = scheduler(capacity=2)

    async def program() -> None:
        async with sdk.open(made, server) as adapter:
            server.hold()
            calls = [
                asyncio.create_task(adapter.create(f"a{n % 3}", model=sdk.model, messages=MESSAGES)) for n in range(6)
            ]
            # The loop runs while the server holds the calls, also those of a sync client.
            state = await in_thread(server.wait_for, in_progress=2)
            assert (state.received, made.resource.holder_count) == (2, 2)
            await in_thread(server.release, 6)
            answers = await asyncio.gather(*calls)
            assert {type(answer).__name__ for answer in answers} <= {"ChatCompletion", "Message"}
            usage = [answer.usage for answer in answers]
            sent = sum(getattr(it, "total_tokens", None) or it.input_tokens + it.output_tokens for it in usage)
            assert made.metrics.total_actual_tokens() == sent > 0

    run(program())
    assert server.peak() == 2
    weight = 3.0 if sdk.name == "openai" else 5.0
    assert made.metrics.cost_by_agent() == {f"a{n}": 2 * weight for n in range(3)}
    assert made.metrics.completed_by_agent() == {f"a{n}": 2 for n in range(3)}


@each_sdk
def test_d21e_stream_holds_its_slot_until_it_ends(
    run: Run, settle: Until, server: LlmServer, scheduler: Any, sdk: Sdk
) -> None:
    made = scheduler(capacity=1)

    async def program() -> None:
        async with sdk.open(made, server) as adapter:
            stream = await adapter.create("a", model=sdk.model, messages=MESSAGES, stream=True)
            other = asyncio.create_task(adapter.create("b", model=sdk.model, messages=MESSAGES))
            await settle(lambda: made.resource.waiter_count == 1)
            assert server.state().received == 1
            assert await read(stream) > 1
            await other
            assert made.metrics.actual_tokens_by_agent()["a"][0] > 0

    run(program())
    assert server.peak() == 1


@each_sdk
@pytest.mark.parametrize("ending", ["closed", "dropped", "broken"])
def test_stream_that_is_not_read_frees_its_slot(
    run: Run, settle: Until, server: LlmServer, scheduler: Any, sdk: Sdk, ending: str
) -> None:
    made = scheduler(capacity=1)

    async def program() -> None:
        async with sdk.open(made, server) as adapter:
            if ending == "broken":
                server.break_off(after_chunks=1, how="malformed")
            stream = await adapter.create("a", model=sdk.model, messages=MESSAGES, stream=True)
            if ending == "closed":
                await close(stream)
            elif ending == "broken":
                with pytest.raises(Exception):  # noqa: B017 - each SDK has its own
                    await read(stream)
            del stream
            gc.collect()
            await settle(lambda: not made.resource.engine.list_tickets())
            await adapter.create("a", model=sdk.model, messages=MESSAGES)

    run(program())
    assert made.metrics.completed_by_agent()["a"] >= 1


@each_sdk
def test_failed_call_leaves_no_slot_task_or_cost(
    run: Run, settle: Until, server: LlmServer, scheduler: Any, sdk: Sdk
) -> None:
    made = scheduler(capacity=1)

    async def program() -> None:
        async with sdk.open(made, server, max_retries=0) as adapter:
            for stream in (False, True):
                server.throttle(status=500)
                with pytest.raises(Exception) as caught:
                    await adapter.create("a", model=sdk.model, messages=MESSAGES, stream=stream)
                assert sdk.is_error(caught.value)
            server.hold()
            call = asyncio.create_task(adapter.create("a", model=sdk.model, messages=MESSAGES))
            await in_thread(server.wait_for, in_progress=1)
            call.cancel()
            server.release(1)
            with pytest.raises(asyncio.CancelledError):
                await call
            await settle(lambda: made.resource.holder_count == 0)

    run(program())
    assert made.metrics.cost_by_agent() == {}


@each_sdk
def test_patched_call_runs_under_the_adapters_slot(run: Run, server: LlmServer, patched: Any, sdk: Sdk) -> None:
    patched(OpenAIInstrumentor(), AnthropicInstrumentor())
    made = loco_otel.configure(capacity=1)

    async def program() -> None:
        async with sdk.open(made, server) as adapter:
            await adapter.create("a", model=sdk.model, messages=MESSAGES)
            stream = await adapter.create("a", model=sdk.model, messages=MESSAGES, stream=True)
            await read(stream)

    run(program())
    assert made.logical_tick == 2
    assert made.resource.holder_count == 0


def test_d21b_documented_names_work_without_a_client(
    run: Run, scheduler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    made = scheduler()

    async def program() -> None:
        message = await AnthropicAdapter(made).create_message("analyst", model="claude-opus-4-20250514")
        chat = await OpenAIAdapter(made, default_agent_id="assistant").create_chat(model="gpt-4o", messages=MESSAGES)
        assert message == {"agent_id": "analyst", "model": "claude-opus-4-20250514", "status": "completed"}
        assert chat == {"agent_id": "assistant", "model": "gpt-4o", "status": "completed"}

    run(program())
    assert made.metrics.cost_by_agent() == {"analyst": 5.0, "assistant": 3.0}
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


@each_sdk
def test_d21b_documented_names_call_the_sdk(run: Run, server: LlmServer, scheduler: Any, sdk: Sdk) -> None:
    adapter_method = "create_chat" if sdk.name == "openai" else "create_message"

    async def program() -> Any:
        async with sdk.open(scheduler(), server) as adapter:
            return await getattr(adapter, adapter_method)("a", model=sdk.model, messages=MESSAGES)

    assert run(program()).id
    (record,) = server.requests()
    assert record.model == sdk.model


@pytest.mark.parametrize(
    ("model", "weight"),
    [("gpt-4o-mini-2024-07-18", 1.0), ("gpt-4.1-mini-2025-04-14", 1.5), ("gpt-5-nano", 1.0), ("o3", 5.0), ("new", 2.0)],
)
def test_d21f_dated_names_weigh_like_their_model(model: str, weight: float) -> None:
    assert estimate_openai_weight(model) == weight


def test_d21f_images_and_long_tools_are_weighed(run: Run, server: LlmServer, scheduler: Any) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 300_000}}
    made = scheduler()

    async def program() -> None:
        async with SDKS[0].open(made, server) as adapter:
            await adapter.create("image", messages=[{"role": "user", "content": [image]}])
            await adapter.create("system", messages=[{"role": "system", "content": "word " * 8000}, *MESSAGES])

    run(program())
    assert made.metrics.agent_cost("image") < 10
    assert made.metrics.agent_cost("system") > 30
