"""The AutoGen adapter with a real runtime: it delivers, and slots follow messages through the runtime."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
import pytest
from autogen_core import (
    AgentId,
    DefaultTopicId,
    MessageContext,
    RoutedAgent,
    SingleThreadedAgentRuntime,
    TypeSubscription,
    message_handler,
)
from library_callers import Run
from llm_server import LlmServer
from loco_otel_instrumentation.openai import OpenAIInstrumentor
from patience import PATIENCE

import loco_otel
from loco_otel.adapters.autogen import AutoGenAdapter, estimate_weight


@dataclass
class Question:
    content: str


class Analyst(RoutedAgent):
    """Calls a model, and passes the first question on to a colleague."""

    def __init__(self, client: Any = None, colleague: AgentId | None = None) -> None:
        super().__init__("analyst")
        self._client, self._colleague = client, colleague
        self.received: list[str] = []

    @message_handler
    async def handle_question(self, message: Question, ctx: MessageContext) -> str:
        self.received.append(message.content)
        if message.content == "fail":
            raise ValueError("no answer")
        if self._colleague is not None:
            return str(await self.send_message(message, self._colleague))
        if self._client is not None:
            chat = await self._client.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": message.content}]
            )
            return str(chat.choices[0].message.content)
        return f"answer to {message.content}"


async def start_runtime(**agents: Callable[[], RoutedAgent]) -> SingleThreadedAgentRuntime:
    runtime = SingleThreadedAgentRuntime()
    for kind, make in agents.items():
        await Analyst.register(runtime, kind, make)
    runtime.start()
    return runtime


def test_d21_message_is_delivered_and_answered(run: Run, scheduler: Any) -> None:
    made = scheduler()

    async def program() -> None:
        runtime = await start_runtime(analyst=Analyst)
        adapter = AutoGenAdapter(made, runtime=runtime)
        result = await adapter.send_message("coordinator", "analyst", Question("x" * 8000))
        assert result["delivered"] is True
        assert result["response"] == "answer to " + "x" * 8000
        agent = await runtime.try_get_underlying_agent_instance(AgentId("analyst", "default"), Analyst)
        assert len(agent.received) == 1
        await runtime.stop_when_idle()

    run(program())
    assert made.metrics.cost_by_agent() == {"analyst": 6.0}


def test_subscribers_get_a_slot_each_at_capacity(run: Run, scheduler: Any) -> None:
    made = scheduler(capacity=2)
    held: list[int] = []

    class Counting(Analyst):
        @message_handler
        async def handle_question(self, message: Question, ctx: MessageContext) -> str:
            held.append(made.resource.holder_count)
            await asyncio.sleep(0)
            return "done"

    async def program() -> None:
        runtime = await start_runtime(**dict.fromkeys(("analyst", "writer", "reviewer"), Counting))
        adapter = AutoGenAdapter(made, runtime=runtime)
        results = await adapter.publish_message(
            "coordinator", "updates", Question("news"), subscribers=["analyst", "writer", "reviewer"]
        )
        assert [result["response"] for result in results] == ["done"] * 3
        await runtime.stop_when_idle()

    run(program())
    assert len(held) == 3
    assert max(held) <= 2
    assert made.metrics.completed_by_agent() == dict.fromkeys(("analyst", "writer", "reviewer"), 1)


def test_topic_reaches_the_runtimes_subscribers(run: Run, scheduler: Any) -> None:
    made = scheduler()

    async def program() -> None:
        runtime = await start_runtime(analyst=Analyst)
        await runtime.add_subscription(TypeSubscription(DefaultTopicId().type, "analyst"))
        adapter = AutoGenAdapter(made, runtime=runtime)
        (result,) = await adapter.publish_message("coordinator", DefaultTopicId().type, Question("news"))
        assert result["delivered"] is True
        await runtime.stop_when_idle()
        agent = await runtime.try_get_underlying_agent_instance(AgentId("analyst", "default"), Analyst)
        assert agent.received == ["news"]

    run(program())


def test_failed_message_frees_its_slot(run: Run, scheduler: Any) -> None:
    made = scheduler()

    async def program() -> None:
        runtime = await start_runtime(analyst=Analyst)
        adapter = AutoGenAdapter(made, runtime=runtime)
        with pytest.raises(ValueError, match="no answer"):
            await adapter.send_message("coordinator", "analyst", Question("fail"))
        with pytest.raises(Exception, match="Recipient not found"):
            await adapter.send_message("coordinator", "nobody", Question("x"))
        runtime._background_exception = None
        await runtime.stop()

    run(program())
    assert made.metrics.cost_by_agent() == {}


def test_patched_calls_of_a_chain_run_under_one_slot(run: Run, server: LlmServer, patched: Any) -> None:
    patched(OpenAIInstrumentor())
    made = loco_otel.configure(capacity=1)

    async def program() -> None:
        async with httpx2.AsyncClient(timeout=PATIENCE) as http:
            client = openai.AsyncOpenAI(api_key="sk-test", base_url=server.url("openai"), http_client=http)
            runtime = await start_runtime(
                coordinator=lambda: Analyst(colleague=AgentId("analyst", "default")), analyst=lambda: Analyst(client)
            )
            adapter = AutoGenAdapter(made, runtime=runtime)
            result = await adapter.send_message("user", "coordinator", Question("hello"))
            assert result["response"]
            await runtime.stop_when_idle()

    run(program())
    assert server.state().received == 1
    assert (made.logical_tick, made.resource.holder_count) == (1, 0)


def test_without_a_runtime_the_adapter_names_it(run: Run, scheduler: Any) -> None:
    async def program() -> None:
        with pytest.raises(RuntimeError, match="SingleThreadedAgentRuntime"):
            await AutoGenAdapter(scheduler()).send_message("coordinator", "analyst", "analyze this")

    run(program())


def test_weight_follows_model_and_length() -> None:
    assert [estimate_weight("gpt-4o-mini"), estimate_weight("gpt-4o", 20_000), estimate_weight()] == [1.0, 15.0, 2.0]
