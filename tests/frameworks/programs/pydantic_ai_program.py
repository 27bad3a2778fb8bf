"""Agents of Pydantic AI: one that delegates in a tool, streams, and runs side by side in tasks and in threads."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import openai
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel

QUESTION = [{"role": "user", "content": "Which harbour is the safest?"}]


def create_agent(name: str) -> Agent:
    return Agent(OpenAIChatModel(f"model-{name}"), name=name)


planner, researcher, writer = (create_agent(name) for name in ("planner", "researcher", "writer"))


@planner.tool_plain
async def ask_researcher() -> str:
    """Ask the researcher."""
    found = await researcher.run("Which harbours are there?")
    async with openai.AsyncOpenAI() as client:
        await client.chat.completions.create(model="model-planner", messages=QUESTION)
    return found.output


@writer.tool_plain
def read_chart() -> str:
    """Read a chart, in a thread."""
    with openai.OpenAI() as client:
        client.chat.completions.create(model="model-writer", messages=QUESTION)
    return "deep water"


async def main() -> None:
    await planner.run("Plan a voyage.", conversation_id="voyage")
    async with writer.run_stream("Write about it.") as answer, openai.AsyncOpenAI() as client:
        async for _ in answer.stream_text():
            await client.chat.completions.create(model="model-nobody", messages=QUESTION)
            break
        async for _ in answer.stream_text():
            pass
    await asyncio.gather(*(create_agent(f"critic-{number}").run("Criticise it.") for number in range(4)))


asyncio.run(main())
with ThreadPoolExecutor(4) as threads:
    for number in range(4):
        threads.submit(create_agent(f"sailor-{number}").run_sync, "Set sail.")
with openai.OpenAI() as client:
    client.chat.completions.create(model="model-nobody", messages=QUESTION)
