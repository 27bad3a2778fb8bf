"""The ADK adapter with real agents and runners against a real server. Runs in the pair that contains google-adk."""

import asyncio
import gc
import os
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest
from library_callers import Run, Until

if os.environ.get("SDK_PAIR") != "agents_old":
    pytest.skip("google-adk requires older SDKs: make test-agents_old runs these tests", allow_module_level=True)

from google.adk.agents import LlmAgent, ParallelAgent
from google.adk.agents.run_config import RunConfig, StreamingMode
from google.adk.apps import App
from google.adk.models import Gemini, LlmRequest, LlmResponse
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.runners import InMemoryRunner
from google.genai import Client, types
from google.genai.errors import ClientError
from llm_server import LlmServer
from loco_otel_instrumentation.google_genai import GoogleGenaiInstrumentor

import loco_otel
from loco_otel.adapters.google_adk import ADKAdapter

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # ADK's, of its own parts

MODEL = "gemini-2.5-pro"


def make_model(server: LlmServer) -> Gemini:
    options = types.HttpOptions(base_url=server.url("gemini"), api_version="v1beta")
    return Gemini(model=MODEL, client=Client(api_key="key", http_options=options))


def make_agent(server: LlmServer, name: str, adapter: ADKAdapter | None = None, **options: Any) -> LlmAgent:
    if adapter is not None:
        options |= {
            "before_model_callback": adapter.before_model,
            "after_model_callback": adapter.after_model,
            "on_model_error_callback": adapter.on_model_error,
        }
    return LlmAgent(name=name, model=make_model(server), instruction="be brief", **options)


async def ask(agent: Any, *, plugin: BasePlugin | None = None, config: RunConfig | None = None) -> list[str]:
    """Run an agent once, and return the texts of its events."""
    runner = InMemoryRunner(app=App(name="app", root_agent=agent, plugins=[] if plugin is None else [plugin]))
    session = await runner.session_service.create_session(app_name="app", user_id="u")
    message = types.Content(role="user", parts=[types.Part(text="hello")])
    events = runner.run_async(
        user_id="u", session_id=session.id, new_message=message, **({} if config is None else {"run_config": config})
    )
    try:
        async with aclosing(events):
            return [part.text async for event in events for part in _list_parts(event)]
    finally:
        for each in (agent, *agent.sub_agents):
            if isinstance(each, LlmAgent):
                await each.model.api_client.aio.aclose()
                each.model.api_client.close()


def _list_parts(event: Any) -> list[Any]:
    return list(event.content.parts) if event.content and event.content.parts else []


@pytest.mark.parametrize("by_plugin", [False, True])
def test_d21_adk_calls_the_adapter(run: Run, server: LlmServer, scheduler: Any, by_plugin: bool) -> None:
    made = scheduler()
    adapter = ADKAdapter(made)

    async def program() -> None:
        agent = make_agent(server, "support", None if by_plugin else adapter)
        assert await ask(agent, plugin=adapter.create_plugin() if by_plugin else None)

    run(program())
    assert made.metrics.cost_by_agent() == {"support": 3.0}
    assert made.metrics.total_actual_tokens() > 0


def test_d21c_concurrent_calls_of_one_agent(run: Run, server: LlmServer, scheduler: Any) -> None:
    made = scheduler(capacity=2)
    adapter = ADKAdapter(made)

    async def program() -> None:
        server.hold()
        runs = [asyncio.create_task(ask(make_agent(server, "support", adapter))) for _ in range(5)]
        assert (await asyncio.to_thread(server.wait_for, in_progress=2)).received == 2
        server.release(5)
        await asyncio.gather(*runs)

    run(program())
    assert server.peak() == 2
    assert made.metrics.completed_by_agent() == {"support": 5}


def test_parallel_agents_keep_the_capacity(run: Run, server: LlmServer, scheduler: Any) -> None:
    made = scheduler(capacity=1)
    adapter = ADKAdapter(made)

    async def program() -> None:
        names = ("one", "two", "three")
        team = ParallelAgent(name="team", sub_agents=[make_agent(server, name) for name in names])
        await ask(team, plugin=adapter.create_plugin())

    run(program())
    assert server.peak() == 1
    assert made.metrics.completed_by_agent() == {"one": 1, "two": 1, "three": 1}


def test_failed_call_frees_its_slot(run: Run, server: LlmServer, scheduler: Any) -> None:
    made = scheduler()
    adapter = ADKAdapter(made)

    async def program() -> None:
        server.throttle(status=400)
        with pytest.raises(ClientError):
            await ask(make_agent(server, "support", adapter))
        await ask(make_agent(server, "support", adapter))

    run(program())
    assert made.metrics.completed_by_agent() == {"support": 1}


def test_destroyed_request_frees_its_slot(run: Run, scheduler: Any, settle: Until) -> None:
    made = scheduler()
    adapter = ADKAdapter(made)
    context = SimpleNamespace(agent_name="support", invocation_id="i1")

    async def program() -> None:
        request = LlmRequest(model=MODEL)
        await adapter.before_model(callback_context=context, llm_request=request)
        assert made.resource.holder_count == 1
        del request
        gc.collect()
        await settle(lambda: not made.resource.engine.list_tickets())
        other = LlmRequest(model=MODEL)
        await adapter.before_model(callback_context=context, llm_request=other)
        await adapter.after_model(callback_context=context, llm_response=LlmResponse())

    run(program())


def test_stream_holds_its_slot_until_the_last_part(run: Run, server: LlmServer, scheduler: Any) -> None:
    made = scheduler()
    adapter = ADKAdapter(made)

    async def program() -> None:
        texts = await ask(make_agent(server, "support", adapter), config=RunConfig(streaming_mode=StreamingMode.SSE))
        assert len(texts) > 1

    run(program())
    assert made.metrics.completed_by_agent() == {"support": 1}


def test_patched_call_runs_under_the_adapters_slot(run: Run, server: LlmServer, patched: Any) -> None:
    patched(GoogleGenaiInstrumentor())
    made = loco_otel.configure(capacity=1)
    adapter = ADKAdapter(made)

    async def program() -> None:
        await ask(make_agent(server, "support", adapter))
        await ask(make_agent(server, "support", adapter), config=RunConfig(streaming_mode=StreamingMode.SSE))

    run(program())
    assert (made.logical_tick, made.resource.holder_count) == (2, 0)


def test_other_callbacks_of_the_agent_run_too(run: Run, server: LlmServer, scheduler: Any) -> None:
    adapter, seen = ADKAdapter(scheduler()), []

    def note(callback_context: Any, llm_response: Any) -> None:
        seen.append(callback_context.agent_name)

    async def program() -> None:
        agent = make_agent(server, "support", adapter)
        agent.after_model_callback = [adapter.after_model, note]
        await ask(agent)

    run(program())
    assert seen == ["support"]
