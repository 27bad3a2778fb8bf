"""Agents of LangGraph and of Google ADK in one process, beside plain code, on one account.

The program does not use a scheduler. Its calls queue under the names that the frameworks give to its agents; those of
the plain code, which names no agent, under the service's.

    LOCO_CAPACITY=2 opentelemetry-instrument python frameworks.py
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from google.adk.agents import LlmAgent
from google.adk.runners import InMemoryRunner
from google.genai import types
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from openai import AsyncOpenAI

TOPICS = ("harbour", "budget", "night trains", "heat wave", "school meals", "wind farm")


def create_node(instruction: str) -> Callable[[MessagesState], Coroutine[Any, Any, dict[str, list[Any]]]]:
    """Return a node of a graph that asks a model, which answers in a stream."""
    model = ChatOpenAI(model="gpt-4.1-mini")

    async def run_node(state: MessagesState) -> dict[str, list[Any]]:
        question = [("system", instruction), *state["messages"]]
        chunks = [chunk async for chunk in model.astream(question)]
        return {"messages": [sum(chunks[1:], chunks[0])]}

    return run_node


async def run_graph() -> str:
    """Run two nodes of LangGraph side by side, for each topic."""
    graph = StateGraph(MessagesState)
    for name, instruction in (("planner", "Plan a story."), ("editor", "Name what a story must not leave out.")):
        graph.add_node(name, create_node(instruction))
        graph.add_edge(START, name)
    compiled = graph.compile()
    for topic in TOPICS:
        await compiled.ainvoke({"messages": [("user", topic)]})
    return f"LangGraph: {len(TOPICS)} plans"


async def run_agent(name: str, instruction: str) -> str:
    """Run an agent of ADK, for each topic."""
    agent = LlmAgent(name=name, model="gemini-2.5-flash", instruction=instruction)
    async with InMemoryRunner(agent=agent, app_name="newsroom") as runner:
        for topic in TOPICS:
            session = await runner.session_service.create_session(app_name="newsroom", user_id="desk")
            message = types.Content(role="user", parts=[types.Part(text=topic)])
            async for _ in runner.run_async(user_id="desk", session_id=session.id, new_message=message):
                pass
    return f"ADK: {len(TOPICS)} answers of the {name}"


async def run_plainly() -> str:
    """Ask a model without any framework, for each topic."""
    async with AsyncOpenAI() as client:
        for topic in TOPICS:
            question = f"What do our readers ask about: {topic}?"
            await client.chat.completions.create(model="gpt-4.1", messages=[{"role": "user", "content": question}])
    return f"plain: {len(TOPICS)} questions"


async def main() -> None:
    """Run all at once."""
    runs = (
        run_graph(),
        run_agent("researcher", "Find what is known about a topic."),
        run_agent("translator", "Say it in another language."),
        run_plainly(),
    )
    for run in asyncio.as_completed(runs):
        print(await run)


if __name__ == "__main__":
    asyncio.run(main())
