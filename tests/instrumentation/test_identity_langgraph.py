"""Calls of LangGraph's nodes and LangChain's agents queue under their names, through the real frameworks."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import BaseMessage
from langchain_core.runnables import config as runnable_config
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from openai import DefaultAsyncHttpxClient, DefaultHttpxClient
from patience import PATIENCE
from pydantic import SecretStr
from sdk_scheduling import Scheduled, Scheduling
from sdk_server import KEY, LlmServer

from loco_otel import as_agent
from loco_otel._runtime import agent_readers
from loco_otel._runtime.identity import resolve_identity
from loco_otel.events import Submitted

ASK: Any = {"messages": [("user", "hello")]}
THREAD: Any = {"configurable": {"thread_id": "t-1"}}


def chat(server: LlmServer, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model="gpt-4o-mini", api_key=SecretStr(KEY), base_url=server.url("openai"), max_retries=0, **options
    )


@pytest.fixture
def model(server: LlmServer) -> Iterator[ChatOpenAI]:
    with DefaultHttpxClient() as client:
        yield chat(server, http_client=client)


@asynccontextmanager
async def async_model(server: LlmServer) -> AsyncIterator[ChatOpenAI]:
    """Make a model with a client of its own: LangChain's outlives the event loop."""
    async with DefaultAsyncHttpxClient() as client:
        yield chat(server, http_async_client=client)


def agents(scheduling: Scheduling) -> Counter[str]:
    return Counter(event.ticket.request.agent for event in scheduling.seen.of(Submitted))


def test_parallel_nodes_queue_under_their_names(scheduled: Scheduled, model: ChatOpenAI) -> None:
    scheduling = scheduled(capacity=1)
    sessions = []
    both_run = threading.Barrier(2, timeout=PATIENCE)

    def ask(state: MessagesState) -> dict[str, list[BaseMessage]]:
        both_run.wait()
        sessions.append(resolve_identity("default").session)
        return {"messages": [model.invoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    for node in ("planner", "writer"):
        graph.add_node(node, ask)
        graph.add_edge(START, node)
    graph.compile().invoke(ASK, THREAD)
    scheduling.settled(2)
    assert agents(scheduling) == {"planner": 1, "writer": 1}
    assert sessions == ["t-1", "t-1"]


def test_streamed_async_nodes_queue_under_their_names(scheduled: Scheduled, server: LlmServer) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async def ask(state: MessagesState) -> dict[str, list[Any]]:
            chunks = [chunk async for chunk in model.astream(state["messages"])]
            return {"messages": [sum(chunks[1:], chunks[0])]}

        graph = StateGraph(MessagesState)
        for node in ("planner", "writer"):
            graph.add_node(node, ask)
            graph.add_edge(START, node)
        async with async_model(server) as model:
            assert [update async for update in graph.compile().astream(ASK, THREAD)]

    asyncio.run(main())
    scheduling.settled(2)
    assert agents(scheduling) == {"planner": 1, "writer": 1}


def test_named_agents_in_parallel_keep_their_names(scheduled: Scheduled, server: LlmServer) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with async_model(server) as model:
            poet, critic = (create_agent(model, [], name=name) for name in ("poet", "critic"))
            await asyncio.gather(poet.ainvoke(ASK), critic.ainvoke(ASK))
            with as_agent("mine"):
                await poet.ainvoke(ASK)

    asyncio.run(main())
    scheduling.settled(3)
    assert agents(scheduling) == {"poet": 1, "critic": 1, "mine": 1}


def test_call_outside_a_graph_has_the_default_name(scheduled: Scheduled, model: ChatOpenAI) -> None:
    scheduling = scheduled(capacity=1, agent_id="configured")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(model.invoke, "hello").result(10)
    scheduling.settled(1)
    assert agents(scheduling) == {"configured": 1}


def test_changed_framework_costs_the_name_alone(
    scheduled: Scheduled, model: ChatOpenAI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scheduling = scheduled(capacity=1)
    monkeypatch.setattr(agent_readers, "faults", {})
    token = runnable_config.var_child_runnable_config.set({"metadata": {"langgraph_node": 42}})
    try:
        (reader,) = (reader for reader in agent_readers.readers if reader.name == "langgraph")
        assert reader.read_identity() == (42, None, None, None)
        model.client.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}])
        model.client.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}])
    finally:
        runnable_config.var_child_runnable_config.reset(token)
    scheduling.settled(2)
    assert agents(scheduling) == {"unknown": 2}
    assert agent_readers.faults == {"langgraph": "TypeError: agent must be a string, not int"}
    assert len([record for record in caplog.records if record.name == "loco_otel"]) == 1
