"""The LangChain handler with real chat models, sync and async, against a real server."""

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import FakeListChatModel, FakeListLLM
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from library_callers import Run, Until
from llm_server import LlmServer
from loco_otel_instrumentation.openai import OpenAIInstrumentor
from patience import PATIENCE

import loco_otel
from loco_otel import BudgetExceededError, BudgetManager
from loco_otel.adapters.langchain import LOCOCallbackHandler

PROMPTS = [[HumanMessage("one")], [HumanMessage("two")]]


def make_chat(server: LlmServer, handler: Any, **options: Any) -> ChatOpenAI:
    """Make a chat model with clients of its own, which keep no connection: LangChain shares its own among loops."""
    limits = httpx2.Limits(max_keepalive_connections=0)
    return ChatOpenAI(
        model="gpt-4o",
        api_key="sk-test",
        base_url=server.url("openai"),
        callbacks=None if handler is None else [handler],
        http_client=httpx2.Client(timeout=PATIENCE, limits=limits),
        http_async_client=httpx2.AsyncClient(timeout=PATIENCE, limits=limits),
        **options,
    )


def test_d21_handler_is_accepted_by_a_chat_model(server: LlmServer, scheduler: Any) -> None:
    made = scheduler()
    handler = LOCOCallbackHandler(made, agent_id="rag-pipeline")
    assert isinstance(handler, BaseCallbackHandler)
    answer = make_chat(server, handler).invoke("hello")
    assert answer.content
    assert made.metrics.cost_by_agent() == {"rag-pipeline": 3.0}
    assert made.metrics.total_actual_tokens() == answer.usage_metadata["total_tokens"]


def test_d21c_concurrent_async_runs_keep_the_capacity(run: Run, server: LlmServer, scheduler: Any) -> None:
    made = scheduler(capacity=2)

    async def program() -> None:
        chat = make_chat(server, LOCOCallbackHandler(made, "a"))
        server.hold()
        calls = [asyncio.create_task(chat.ainvoke("hello")) for _ in range(5)]
        state = await asyncio.to_thread(server.wait_for, in_progress=2)
        assert (state.received, made.resource.holder_count) == (2, 2)
        server.release(5)
        await asyncio.gather(*calls)

    run(program())
    assert server.peak() == 2
    assert made.metrics.completed_by_agent() == {"a": 5}


def test_d21c_concurrent_sync_runs_keep_the_capacity(server: LlmServer, scheduler: Any) -> None:
    made = scheduler(capacity=2)
    chat = make_chat(server, LOCOCallbackHandler(made, "a"))
    server.hold()
    with ThreadPoolExecutor(5) as pool:
        calls = [pool.submit(chat.invoke, "hello") for _ in range(5)]
        assert server.wait_for(in_progress=2).received == 2
        server.release(5)
        assert all(call.result(PATIENCE).content for call in calls)
    assert server.peak() == 2


@pytest.mark.parametrize("is_async", [False, True])
def test_d21c_failed_run_frees_its_slot_and_task(run: Run, server: LlmServer, scheduler: Any, is_async: bool) -> None:
    made = scheduler()
    chat = make_chat(server, LOCOCallbackHandler(made, "a"), max_retries=0)

    async def program() -> None:
        server.throttle(status=500)
        with pytest.raises(Exception, match="500"):
            await (chat.ainvoke("hello") if is_async else asyncio.to_thread(chat.invoke, "hello"))

    run(program())
    assert made.resource.holder_count == 0
    assert made.metrics.cost_by_agent() == {}


@pytest.mark.parametrize("is_async", [False, True])
def test_stream_holds_its_slot_until_it_ends(
    run: Run, server: LlmServer, scheduler: Any, settle: Until, is_async: bool
) -> None:
    made = scheduler()
    chat = make_chat(server, LOCOCallbackHandler(made, "a"))

    async def program() -> None:
        if is_async:
            held = [made.resource.holder_count async for _ in chat.astream("hello")]
            dropped = chat.astream("hello")
            await anext(dropped)
            await dropped.aclose()
        else:
            held = [made.resource.holder_count for _ in chat.stream("hello")]
            dropped = chat.stream("hello")
            next(dropped)
            dropped.close()
        assert set(held[:-1]) == {1}
        del dropped
        gc.collect()
        await settle(lambda: not made.resource.engine.list_tickets())
        await chat.ainvoke("hello")

    run(program())


def test_cancelled_run_frees_its_slot(run: Run, server: LlmServer, scheduler: Any, settle: Until) -> None:
    made = scheduler()

    async def program() -> None:
        chat = make_chat(server, LOCOCallbackHandler(made, "a"))
        server.hold()
        call = asyncio.create_task(chat.ainvoke("hello"))
        await asyncio.to_thread(server.wait_for, in_progress=1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        server.release()
        del call
        gc.collect()
        await settle(lambda: not made.resource.engine.list_tickets())
        await chat.ainvoke("hello")

    run(program())


@pytest.mark.parametrize("place", ["async", "sync", "sync in a loop"])
def test_rejected_request_rejects_the_call(run: Run, server: LlmServer, scheduler: Any, place: str) -> None:
    made = scheduler(budget=BudgetManager(default_limit=1.0))
    chat = make_chat(server, LOCOCallbackHandler(made, "a"))

    async def program() -> None:
        with pytest.raises(BudgetExceededError):
            await chat.ainvoke("hello") if place == "async" else chat.invoke("hello")

    if place == "sync":
        with pytest.raises(BudgetExceededError):
            chat.invoke("hello")
    else:
        run(program())
    assert server.state().received == 0


def test_several_prompts_of_one_call_share_a_slot(run: Run, scheduler: Any) -> None:
    made = scheduler()

    async def program() -> None:
        chat = FakeListChatModel(responses=["answer"], callbacks=[LOCOCallbackHandler(made, "a")])
        await chat.agenerate(PROMPTS)
        await asyncio.to_thread(chat.generate, PROMPTS)

    run(program())
    assert made.metrics.completed_by_agent() == {"a": 4}


def test_completions_are_scheduled(scheduler: Any) -> None:
    made = scheduler()
    model = FakeListLLM(responses=["answer"], callbacks=[LOCOCallbackHandler(made, "a")])
    assert model.invoke("hello") == "answer"
    assert made.metrics.completed_by_agent() == {"a": 1}


@pytest.mark.parametrize("place", ["async", "sync", "sync in a loop", "stream"])
def test_patched_sdk_runs_under_the_handlers_slot(run: Run, server: LlmServer, patched: Any, place: str) -> None:
    patched(OpenAIInstrumentor())
    made = loco_otel.configure(capacity=1)
    chat = make_chat(server, LOCOCallbackHandler(made, "a"))

    async def program() -> None:
        if place == "async":
            await chat.ainvoke("hello")
        elif place == "stream":
            async for _ in chat.astream("hello"):
                pass
        else:
            chat.invoke("hello")

    if place == "sync":
        chat.invoke("hello")
    else:
        run(program())
    assert made.logical_tick == 1
    assert made.resource.holder_count == 0


def test_call_between_two_chunks_is_another_one(run: Run, server: LlmServer, patched: Any) -> None:
    patched(OpenAIInstrumentor())
    made = loco_otel.configure(capacity=2)
    chat = make_chat(server, LOCOCallbackHandler(made, "a"))
    direct = make_chat(server, None)

    async def program() -> None:
        stream = chat.astream("hello")
        await anext(stream)
        await direct.ainvoke("hello")
        assert made.logical_tick == 1
        async for _ in stream:
            pass

    run(program())
    assert made.logical_tick == 2


def test_handler_is_shared_by_threads_and_loops(server: LlmServer, scheduler: Any) -> None:
    made = scheduler(capacity=2)
    handler = LOCOCallbackHandler(made, "a")
    threads = [threading.Thread(target=lambda: asyncio.run(_ask_twice(make_chat(server, handler)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert made.metrics.completed_by_agent() == {"a": 6}


def test_callback_may_have_keywords_of_any_name(scheduler: Any) -> None:
    handler = LOCOCallbackHandler(scheduler(), "a")
    assert handler.on_llm_new_token("token", handler=1, function=2) is None


async def _ask_twice(chat: ChatOpenAI) -> None:
    await asyncio.gather(chat.ainvoke("hello"), chat.ainvoke("hello"))
