"""Agents of AutoGen: a team with a tool and a stream, agents side by side, and workers of a runtime."""

import asyncio
from dataclasses import dataclass

import openai
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat, SelectorGroupChat
from autogen_core import (
    DefaultTopicId,
    MessageContext,
    RoutedAgent,
    SingleThreadedAgentRuntime,
    TypeSubscription,
    message_handler,
)
from autogen_core.models import ModelFamily, ModelInfo, UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient

QUESTION = [{"role": "user", "content": "Which harbour is the safest?"}]


def create_client(name: str) -> OpenAIChatCompletionClient:
    info = ModelInfo(
        vision=False, function_calling=True, json_output=False, structured_output=False, family=ModelFamily.GPT_4O
    )
    return OpenAIChatCompletionClient(model=f"model-{name}", model_info=info)


def create_agent(name: str, **options: object) -> AssistantAgent:
    return AssistantAgent(name, create_client(name), **options)


async def ask_weather() -> str:
    """Ask for the weather."""
    async with openai.AsyncOpenAI() as client:
        await client.chat.completions.create(model="model-writer", messages=QUESTION)
    return "calm"


async def ask_mate() -> str:
    """Ask an agent."""
    return str(await create_agent("mate").run(task="What now?"))


@dataclass
class Order:
    text: str


class Worker(RoutedAgent):
    def __init__(self, name: str) -> None:
        super().__init__("Works.")
        self._client = create_client(name)

    @message_handler
    async def work(self, message: Order, context: MessageContext) -> None:
        await self._client.create([UserMessage(content=message.text, source="user")])


async def run_team() -> None:
    writer = create_agent("writer", tools=[ask_weather], reflect_on_tool_use=True, model_client_stream=True)
    critic = create_agent("critic", model_client_stream=True)
    team = RoundRobinGroupChat(
        [writer, critic], name="newsroom", termination_condition=MaxMessageTermination(3, include_agent_event=False)
    )
    async with openai.AsyncOpenAI() as client:
        asked = False
        async for _ in team.run_stream(task="Write about a voyage."):
            if not asked:
                asked = True
                await client.chat.completions.create(model="model-nobody", messages=QUESTION)


async def run_workers() -> None:
    runtime = SingleThreadedAgentRuntime()
    for name in ("stoker", "cook"):
        kind = await Worker.register(runtime, name, lambda name=name: Worker(name))
        await runtime.add_subscription(TypeSubscription("orders", kind.type))
    runtime.start()
    for ship in ("north", "south"):
        await runtime.publish_message(Order("Go."), DefaultTopicId("orders", ship))
    await runtime.stop_when_idle()


async def main() -> None:
    await run_team()
    chooser = SelectorGroupChat(
        [create_agent("left"), create_agent("right")],
        create_client("SelectorGroupChatManager"),
        termination_condition=MaxMessageTermination(2),
        max_selector_attempts=1,
    )
    await chooser.run(task="Choose.")
    await create_agent("captain", tools=[ask_mate], reflect_on_tool_use=True).run(task="Sail.")
    await asyncio.gather(*(create_agent(f"sailor_{number}").run(task="Set sail.") for number in range(4)))
    await run_workers()


asyncio.run(main())
with openai.OpenAI() as client:
    client.chat.completions.create(model="model-nobody", messages=QUESTION)
