"""The frameworks that require older SDKs, in one process with others, and within each other."""

import asyncio

import openai
from crewai import LLM, Crew, Task
from crewai import Agent as CrewAgent
from crewai.tools import tool
from google.adk.agents import LlmAgent
from google.adk.runners import InMemoryRunner
from google.genai import types
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.models.openai import OpenAIChatModel

QUESTION = [{"role": "user", "content": "Which harbour is the safest?"}]
ASK = {"messages": [("user", "Which harbour is the safest?")]}


async def ask_model(name: str) -> None:
    async with openai.AsyncOpenAI() as client:
        await client.chat.completions.create(model=f"gpt-{name}", messages=QUESTION)


async def run_pydantic(name: str) -> None:
    await PydanticAgent(OpenAIChatModel(f"gpt-{name}"), name=name).run("hello")


async def run_adk(name: str, *tools: object) -> None:
    agent = LlmAgent(name=name, model=f"gemini-{name}", tools=list(tools))
    async with InMemoryRunner(agent=agent, app_name="ship") as runner:
        session = await runner.session_service.create_session(app_name="ship", user_id="user")
        message = types.Content(role="user", parts=[types.Part(text="hello")])
        async for _ in runner.run_async(user_id="user", session_id=session.id, new_message=message):
            pass


async def run_crew(role: str, *tools: object) -> None:
    agent = CrewAgent(role=role, goal="Sail.", backstory="Sailed.", llm=LLM(model=f"openai/gpt-{role}"), tools=tools)
    task = Task(description="Plan a voyage.", expected_output="A plan.", agent=agent)
    await Crew(agents=[agent], tasks=[task], name="ship").kickoff_async()


@tool("ask_oracle")
def ask_oracle() -> str:
    """Ask LangChain, within CrewAI."""
    create_agent(ChatOpenAI(model="gpt-oracle"), [], name="oracle").invoke(ASK)
    with openai.OpenAI() as client:
        client.chat.completions.create(model="gpt-navigator", messages=QUESTION)
    return "done"


async def ask_navigator() -> str:
    """Ask CrewAI, within Google ADK."""
    await run_crew("navigator", ask_oracle)
    await ask_model("bosun")
    return "done"


def create_node(name: str, run: object, *arguments: object) -> object:
    async def node(_: MessagesState) -> dict[str, list[object]]:
        await run(*arguments)
        await ask_model(name)
        return {"messages": []}

    return node


async def main() -> None:
    graph = StateGraph(MessagesState)
    nodes = {
        "bridge": create_node("bridge", run_adk, "bosun", ask_navigator),
        "deck": create_node("deck", run_crew, "sailor"),
        "hold": create_node("hold", run_pydantic, "cook"),
    }
    for name, node in nodes.items():
        graph.add_node(name, node)
        graph.add_edge(START, name)
    await asyncio.gather(graph.compile().ainvoke(ASK), run_adk("gull"), run_crew("whale"), run_pydantic("crab"))
    await ask_model("nobody")


asyncio.run(main())
