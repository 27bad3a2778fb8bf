"""LangGraph: nodes side by side in threads and in tasks, an agent with a tool, a stream, and agents in tools."""

import asyncio

import openai
from langchain.agents import create_agent
from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph

QUESTION = [{"role": "user", "content": "Which harbour is the safest?"}]
ASK = {"messages": [("user", "Which harbour is the safest?")]}
THREAD = {"configurable": {"thread_id": "voyage"}}


def read_chart() -> str:
    """Read a chart."""
    with openai.OpenAI() as client:
        client.chat.completions.create(model="model-writer", messages=QUESTION)
    return "deep water"


def create_node(name: str) -> object:
    model = ChatOpenAI(model=f"model-{name}")
    return lambda state: {"messages": [model.invoke(state["messages"])]}


def create_async_node(name: str) -> object:
    async def run(state: MessagesState) -> dict[str, list[object]]:
        chunks = [chunk async for chunk in ChatOpenAI(model=f"model-{name}").astream(state["messages"])]
        return {"messages": [sum(chunks[1:], chunks[0])]}

    return run


def build_graph(create: object, *names: str) -> object:
    graph = StateGraph(MessagesState)
    for name in names:
        graph.add_node(name, create(name))
        graph.add_edge(START, name)
    return graph.compile()


researcher = create_agent(ChatOpenAI(model="model-researcher"), name="researcher")


def research() -> str:
    """Ask the researcher."""
    return str(researcher.invoke(ASK))


def research_here(config: RunnableConfig) -> str:
    """Ask the researcher with the config of the tool."""
    return str(researcher.invoke(ASK, config))


async def research_async() -> str:
    """Ask the researcher."""
    return str(await researcher.ainvoke(ASK))


async def research_here_async(config: RunnableConfig) -> str:
    """Ask the researcher with the config of the tool."""
    return str(await researcher.ainvoke(ASK, config))


def create_supervisor(tool: object) -> object:
    return create_agent(ChatOpenAI(model="model-supervisor"), [tool], name="supervisor")


async def main() -> None:
    for tool in (research_async, research_here_async):
        await create_supervisor(tool).ainvoke(ASK)
    graph = build_graph(create_async_node, *(f"sailor-{number}" for number in range(4)))
    async for _ in graph.astream(ASK, THREAD):
        pass


build_graph(create_node, *(f"critic-{number}" for number in range(4))).invoke(ASK, THREAD)
asyncio.run(main())
writer = create_agent(ChatOpenAI(model="model-writer"), [read_chart], name="writer")
for _ in writer.stream(ASK):
    pass
for tool in (research, research_here):
    create_supervisor(tool).invoke(ASK)
with openai.OpenAI() as client:
    client.chat.completions.create(model="model-nobody", messages=QUESTION)
