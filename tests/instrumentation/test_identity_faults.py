"""A framework that has changed costs only the names of its agents: calls are scheduled, and the fault is logged."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from types import ModuleType
from typing import Any

import pytest
from agent_framework import Agent as FrameworkAgent
from agent_framework.openai import OpenAIChatCompletionClient as FrameworkClient
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_ext.models.openai import OpenAIChatCompletionClient
from loco_otel_instrumentation.identity import agent_framework, autogen, pydantic_ai
from openai import AsyncOpenAI
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from sdk_scheduling import Scheduled
from sdk_server import KEY, LlmServer

from loco_otel._runtime import agent_readers
from loco_otel.events import Submitted

MODEL = "gpt-4o-mini-2024-07-18"

Run = Callable[[AsyncOpenAI, str], Coroutine[Any, Any, None]]


async def run_pydantic(client: AsyncOpenAI, _: str) -> None:
    agent: PydanticAgent[Any, Any] = PydanticAgent(
        OpenAIChatModel(MODEL, provider=OpenAIProvider(openai_client=client)), name="poet"
    )
    await agent.run("hello")
    async with agent.run_stream("hello") as answer:
        await answer.get_output()


async def run_autogen(_: AsyncOpenAI, url: str) -> None:
    client = OpenAIChatCompletionClient(model=MODEL, api_key=KEY, base_url=url)
    await AssistantAgent("poet", client).run(task="hello")
    team = RoundRobinGroupChat([AssistantAgent("poet", client)], termination_condition=MaxMessageTermination(2))
    await team.run(task="hello")
    await client.close()


async def run_framework(client: AsyncOpenAI, _: str) -> None:
    agent = FrameworkAgent(FrameworkClient(MODEL, async_client=client), name="poet")
    await agent.run("hello")
    async for _update in agent.run("hello", stream=True):
        pass


def fail(*_: object) -> None:
    raise AttributeError("changed")


@pytest.mark.parametrize(
    ("module", "run"),
    [(pydantic_ai, run_pydantic), (autogen, run_autogen), (agent_framework, run_framework)],
    ids=["pydantic_ai", "autogen", "agent_framework"],
)
@pytest.mark.parametrize("is_broken", [False, True], ids=["whole", "broken"])
def test_broken_hooks_cost_the_name_alone(
    module: ModuleType,
    run: Run,
    is_broken: bool,
    scheduled: Scheduled,
    server: LlmServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(agent_readers, "faults", {})
    if is_broken:
        for name in [name for name in vars(module) if name.startswith("_read_")]:
            monkeypatch.setattr(module, name, fail)
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with server.async_openai(max_retries=0) as client:
            await run(client, server.url("openai"))

    asyncio.run(main())
    scheduling.settled(2)
    agents = Counter(event.ticket.request.agent for event in scheduling.seen.of(Submitted))
    assert agents == {"unknown" if is_broken else "poet": 2}
    assert agent_readers.faults == ({module._NAME: "AttributeError: changed"} if is_broken else {})
    assert sum("from " + module._NAME in record.getMessage() for record in caplog.records) == is_broken
