"""Five frameworks in one process, side by side and within each other. The innermost agent names each call."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import agents
import openai
from agent_framework import Agent as FrameworkAgent
from agent_framework.openai import OpenAIChatCompletionClient as FrameworkClient
from agents import Agent as OpenAIAgent
from agents import OpenAIChatCompletionsModel, Runner, function_tool
from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import ModelFamily, ModelInfo
from autogen_ext.models.openai import OpenAIChatCompletionClient
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.models.openai import OpenAIChatModel

QUESTION = [{"role": "user", "content": "Which harbour is the safest?"}]
ASK = {"messages": [("user", "Which harbour is the safest?")]}
INFO = ModelInfo(
    vision=False, function_calling=True, json_output=False, structured_output=False, family=ModelFamily.GPT_4O
)

agents.set_trace_processors([])


async def ask_model(name: str) -> None:
    async with openai.AsyncOpenAI() as client:
        await client.chat.completions.create(model=f"model-{name}", messages=QUESTION)


async def run_langchain(name: str) -> None:
    await create_agent(ChatOpenAI(model=f"model-{name}"), [], name=name).ainvoke(ASK)


async def run_pydantic(name: str, *tools: object) -> None:
    await PydanticAgent(OpenAIChatModel(f"model-{name}"), name=name, tools=tools).run("hello")


async def run_autogen(name: str, *tools: object) -> None:
    client = OpenAIChatCompletionClient(model=f"model-{name}", model_info=INFO)
    await AssistantAgent(name, client, tools=list(tools)).run(task="hello")


async def run_openai(name: str, *tools: object) -> None:
    model = OpenAIChatCompletionsModel(f"model-{name}", openai.AsyncOpenAI())
    await Runner.run(OpenAIAgent(name=name, model=model, tools=list(tools)), "hello")


async def run_framework(name: str, *tools: object) -> None:
    await FrameworkAgent(FrameworkClient(f"model-{name}"), name=name, tools=list(tools)).run("hello")


async def ask_oracle() -> str:
    """Ask LangChain, within Pydantic AI."""
    await run_langchain("oracle")
    await ask_model("navigator")
    return "done"


@function_tool
async def ask_cook() -> str:
    """Ask Agent Framework, within the OpenAI Agents SDK."""
    await run_framework("cook")
    await ask_model("bosun")
    return "done"


async def ask_surgeon() -> str:
    """Ask AutoGen, within Agent Framework."""
    await run_autogen("surgeon")
    await ask_model("carpenter")
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
        "bridge": create_node("bridge", run_pydantic, "navigator", ask_oracle),
        "deck": create_node("deck", run_openai, "bosun", ask_cook),
        "hold": create_node("hold", run_framework, "carpenter", ask_surgeon),
        "engine": create_node("engine", run_autogen, "stoker"),
    }
    for name, node in nodes.items():
        graph.add_node(name, node)
        graph.add_edge(START, name)
    await asyncio.gather(graph.compile().ainvoke(ASK), run_pydantic("gull"), run_openai("whale"), run_framework("crab"))
    await ask_model("nobody")


def dive(number: int) -> None:
    run = (run_pydantic, run_openai, run_framework, run_autogen)[number]
    asyncio.run(run(f"diver_{number}"))


asyncio.run(main())
with ThreadPoolExecutor(4) as threads:
    list(threads.map(dive, range(4)))
asyncio.run(ask_model("nobody"))
