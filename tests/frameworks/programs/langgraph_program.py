"""LangGraph: nodes side by side in threads and in tasks, an agent with a tool, and a stream."""

import asyncio

import openai
from langchain.agents import create_agent
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


async def main() -> None:
    graph = build_graph(create_async_node, *(f"sailor-{number}" for number in range(4)))
    async for _ in graph.astream(ASK, THREAD):
        pass


build_graph(create_node, *(f"critic-{number}" for number in range(4))).invoke(ASK, THREAD)
asyncio.run(main())
writer = create_agent(ChatOpenAI(model="model-writer"), [read_chart], name="writer")
for _ in writer.stream(ASK):
    pass
with openai.OpenAI() as client:
    client.chat.completions.create(model="model-nobody", messages=QUESTION)
