"""Agents of Microsoft's Agent Framework: a workflow that fans out, an agent as a tool, streams, and runs in threads."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import openai
from agent_framework import Agent, Message, WorkflowBuilder, WorkflowContext, executor
from agent_framework.openai import OpenAIChatCompletionClient

QUESTION = [{"role": "user", "content": "Which harbour is the safest?"}]


def create_agent(name: str, **options: object) -> Agent:
    return Agent(OpenAIChatCompletionClient(f"model-{name}"), name=name, **options)


async def ask_weather() -> str:
    """Ask for the weather."""
    async with openai.AsyncOpenAI() as client:
        await client.chat.completions.create(model="model-planner", messages=QUESTION)
    return "calm"


@executor(id="dispatcher")
async def dispatch(text: str, context: WorkflowContext[list[Message]]) -> None:
    async with openai.AsyncOpenAI() as client:
        await client.chat.completions.create(model="model-dispatcher", messages=QUESTION)
    await context.send_message([Message("user", [text])])


async def main() -> None:
    planner = create_agent("planner", tools=[ask_weather])
    await planner.run("Plan a voyage.", session=planner.create_session(session_id="voyage"))
    captain = create_agent("captain", tools=[create_agent("mate").as_tool()])
    async with openai.AsyncOpenAI() as client:
        asked = False
        async for _ in captain.run("Sail.", stream=True):
            if not asked:
                asked = True
                await client.chat.completions.create(model="model-nobody", messages=QUESTION)
    critics = [create_agent(f"critic-{number}") for number in range(4)]
    workflow = WorkflowBuilder(name="review", start_executor=dispatch).add_fan_out_edges(dispatch, critics).build()
    await workflow.run("Criticise it.")
    async for _ in workflow.run("Criticise it again.", stream=True):
        pass


def sail(number: int) -> None:
    asyncio.run(create_agent(f"sailor-{number}").run("Set sail."))


asyncio.run(main())
with ThreadPoolExecutor(4) as threads:
    list(threads.map(sail, range(4)))
with openai.OpenAI() as client:
    client.chat.completions.create(model="model-nobody", messages=QUESTION)
