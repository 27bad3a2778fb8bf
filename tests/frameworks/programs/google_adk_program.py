"""Agents of Google ADK: a pipeline with a parallel step, a tool, an agent as a tool, and a stream."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from google import genai
from google.adk.agents import LlmAgent, ParallelAgent, RunConfig, SequentialAgent
from google.adk.agents.run_config import StreamingMode
from google.adk.runners import InMemoryRunner
from google.adk.tools.agent_tool import AgentTool
from google.genai import types


def ask_model(name: str) -> str:
    with genai.Client() as client:
        return client.models.generate_content(model=f"gemini-{name}", contents="hello").text


def ask_weather() -> str:
    """Ask for the weather."""
    with genai.Client() as client:
        client.models.count_tokens(model="gemini-planner", contents="hello")
    return ask_model("planner")


def create_agent(name: str, **options: object) -> LlmAgent:
    return LlmAgent(name=name, model=f"gemini-{name}", instruction="Be brief.", **options)


async def run_agent(agent: object, app: str = "sailing", session_id: str = "voyage", **options: object) -> None:
    async with InMemoryRunner(agent=agent, app_name=app) as runner, genai.Client().aio as client:
        session = await runner.session_service.create_session(app_name=app, user_id="user", session_id=session_id)
        message = types.Content(role="user", parts=[types.Part(text="Plan a voyage.")])
        asked = False
        async for _ in runner.run_async(user_id="user", session_id=session.id, new_message=message, **options):
            if not asked:
                asked = True
                await client.models.generate_content(model="gemini-nobody", contents="hello")


async def main() -> None:
    critics = ParallelAgent(name="critics", sub_agents=[create_agent(f"critic_{number}") for number in range(4)])
    planner = create_agent("planner", tools=[ask_weather])
    captain = create_agent("captain", tools=[AgentTool(create_agent("mate"))])
    await run_agent(SequentialAgent(name="pipeline", sub_agents=[planner, critics, captain]))
    await run_agent(create_agent("writer"), run_config=RunConfig(streaming_mode=StreamingMode.SSE))


def sail(number: int) -> None:
    asyncio.run(run_agent(create_agent(f"sailor_{number}"), session_id=f"session-{number}"))


asyncio.run(main())
with ThreadPoolExecutor(4) as threads:
    list(threads.map(sail, range(4)))
ask_model("nobody")
