"""The OpenAI Agents SDK: an agent as a tool, a handoff, a stream, and runs side by side in tasks and in threads."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import agents
import openai
from agents import Agent, OpenAIChatCompletionsModel, RunConfig, Runner, function_tool

QUESTION = [{"role": "user", "content": "Which harbour is the safest?"}]

agents.set_trace_processors([])


def create_agent(name: str, **options: object) -> Agent:
    return Agent(name=name, model=OpenAIChatCompletionsModel(f"model-{name}", openai.AsyncOpenAI()), **options)


@function_tool
async def ask_weather() -> str:
    """Ask for the weather."""
    async with openai.AsyncOpenAI() as client:
        await client.chat.completions.create(model="model-planner", messages=QUESTION)
    return "calm"


async def main() -> None:
    config = RunConfig(workflow_name="sailing", group_id="voyage")
    await Runner.run(create_agent("planner", tools=[ask_weather]), "Plan a voyage.", run_config=config)
    mate = create_agent("mate").as_tool("ask_mate", "Asks the mate.")
    await Runner.run(create_agent("captain", tools=[mate]), "Sail.")
    triage = create_agent("triage", handoffs=[create_agent("expert")])
    async for _ in Runner.run_streamed(triage, "Help.").stream_events():
        pass
    await asyncio.gather(*(Runner.run(create_agent(f"critic-{number}"), "Criticise it.") for number in range(4)))


def sail(number: int) -> None:
    asyncio.run(Runner.run(create_agent(f"sailor-{number}"), "Set sail."))


asyncio.run(main())
with ThreadPoolExecutor(4) as threads:
    list(threads.map(sail, range(4)))
with openai.OpenAI() as client:
    client.chat.completions.create(model="model-nobody", messages=QUESTION)
