"""The A2A agent: a card that the SDK accepts, loco-agent's two calls, and a real server with scheduled tasks."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.client.card_resolver import parse_agent_card
from a2a.server.context import ServerCallContext
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import a2a_pb2
from a2a.utils.errors import TaskNotFoundError
from a2a.utils.proto_utils import validate_proto_required_fields
from google.protobuf.json_format import ParseDict
from library_callers import Run, Until
from patience import PATIENCE

import loco_otel
from loco_otel import Agent, AsyncLOCOScheduler, BudgetManager, SharedResource
from loco_otel.a2a import A2ASchedulerAgent
from loco_otel.compat.a2a_server import RecentTaskStore


def scheduler(capacity: int = 1, **options: Any) -> AsyncLOCOScheduler:
    return AsyncLOCOScheduler([], SharedResource("llm_api", capacity), **options)


# -- card, handle_task, get_status -------------------------------------------------------------------------------------


def test_d21_card_is_valid_for_the_sdk() -> None:
    card = A2ASchedulerAgent(scheduler(), name="loco", url="http://localhost:8080").agent_card()
    assert card["capabilities"]["scheduling"] is True
    parsed = parse_agent_card(dict(card))
    validate_proto_required_fields(parsed)
    # Strictly, there are only the fields that A2A 0.3 and loco-agent have beside those of 1.0.
    del card["url"], card["preferredTransport"], card["protocolVersion"], card["capabilities"]["scheduling"]
    assert ParseDict(card, a2a_pb2.AgentCard()) == parsed
    assert [skill.id for skill in parsed.skills] == ["schedule_task", "get_status"]
    assert all(skill.tags and skill.name and skill.description for skill in parsed.skills)
    assert (parsed.default_input_modes, parsed.default_output_modes) == (["text/plain"], ["text/plain"])
    assert parsed.supported_interfaces[0].url == "http://localhost:8080"


def test_handle_task_queues_for_the_named_agent(run: Run) -> None:
    made = scheduler()
    agent = A2ASchedulerAgent(made)

    async def program() -> dict[str, Any]:
        await agent.handle_task({"agent_id": "external", "weight": 2})
        return await agent.handle_task({"agent_id": "external", "weight": 3.0, "task_type": "analysis"})

    answer = run(program())
    task = made.get_agent("external").tasks[1]
    expected = {
        "status": "accepted",
        "agent_id": "external",
        "task_id": task.task_id,
        "weight": 3.0,
        "queue_depth": 5.0,
    }
    assert answer == expected
    assert task.task_type == "analysis"
    assert agent.get_status() == {
        "status": "running",
        "agents": 1,
        "total_pending_tasks": 2,
        "total_completed_tasks": 0,
        "resource_utilization": 0.0,
        "alpha": 0.25,
        "logical_tick": 0,
        "cost_summary": {"total": 0, "by_agent": {}},
    }


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"weight": 1.0},
        {"agent_id": ""},
        {"agent_id": 7},
        {"agent_id": "a", "weight": 0},
        {"agent_id": "a", "weight": "heavy"},
        {"agent_id": "a", "weight": float("nan")},
        {"agent_id": "a", "weight": True},
    ],
)
def test_d24_invalid_payload_is_an_error_answer(run: Run, payload: dict[str, Any]) -> None:
    made = scheduler()
    answer = run(A2ASchedulerAgent(made).handle_task(payload))
    assert answer["status"] == "error"
    assert answer["message"]
    assert not made.agents


def test_handle_task_after_shutdown_is_an_error_answer(run: Run) -> None:
    made = scheduler()

    async def program() -> dict[str, Any]:
        await made.shutdown()
        return await A2ASchedulerAgent(made).handle_task({"agent_id": "a"})

    assert run(program())["status"] == "error"
    assert A2ASchedulerAgent(made).get_status()["status"] == "shutting down"


def test_d24_accepted_tasks_hold_up_no_other_agent(run: Run) -> None:
    made = scheduler()

    async def program() -> None:
        for _ in range(50):
            await A2ASchedulerAgent(made).handle_task({"agent_id": "external", "weight": 5})
        made.register_agent(Agent("local"))
        async with made.acquire("local", timeout=PATIENCE):
            assert made.resource.holder_count == 1

    run(program())


# -- the server --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def serve(agent: A2ASchedulerAgent, handler: Any, **options: Any) -> AsyncIterator[Any]:
    """Serve an agent over HTTP, and yield a client of the SDK for the served card."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        agent.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        config = uvicorn.Config(agent.create_app(handler, **options), log_level="warning", lifespan="off", ws="none")
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve(sockets=[listener]))
        async with httpx.AsyncClient() as http:
            while not server.started:  # noqa: ASYNC110 - there is no notification
                await asyncio.sleep(0)
            card = await A2ACardResolver(http, agent.url).get_agent_card()
            yield ClientFactory(ClientConfig(streaming=True, httpx_client=http)).create(card)
        server.should_exit = True
        await running


def ask(text: str, *, context: str = "c1", **metadata: Any) -> a2a_pb2.SendMessageRequest:
    message = a2a_pb2.Message(
        message_id=text, role=a2a_pb2.ROLE_USER, parts=[a2a_pb2.Part(text=text)], context_id=context
    )
    message.metadata.update(metadata)
    return a2a_pb2.SendMessageRequest(message=message)


async def follow(client: Any, request: a2a_pb2.SendMessageRequest) -> tuple[list[str], str, str]:
    """Send a message; return the states of its task, the text of its artifacts, and that of its last status."""
    states, text, note = [], "", ""
    async for event in client.send_message(request):
        kind = event.WhichOneof("payload")
        if kind == "task":
            states.append(event.task.status.state)
        elif kind == "status_update":
            states.append(event.status_update.status.state)
            note = "".join(part.text for part in event.status_update.status.message.parts)
        elif kind == "artifact_update":
            text += "".join(part.text for part in event.artifact_update.artifact.parts)
    names = [a2a_pb2.TaskState.Name(state).removeprefix("TASK_STATE_").lower() for state in states]
    return names, text, note


def test_task_is_reported_from_submitted_to_completed(run: Run) -> None:
    made = scheduler()
    seen: list[Any] = []

    async def handler(text: str, context: Any) -> str:
        seen.append((text, made.resource.holder_count, context.context_id))
        return text.upper()

    async def program() -> Any:
        async with serve(A2ASchedulerAgent(made, name="served"), handler) as client:
            return await follow(client, ask("hello", context="conversation-1", agent_id="caller", weight=2.0))

    states, text, _ = run(program())
    assert states == ["submitted", "working", "completed"]
    assert (text, seen) == ("HELLO", [("hello", 1, "conversation-1")])
    assert made.metrics.cost_by_agent() == {"caller": 2.0}


def test_unnamed_caller_is_the_served_agent(run: Run) -> None:
    made = scheduler()

    async def handler(text: str, _: Any) -> str:
        return text

    async def program() -> None:
        async with serve(A2ASchedulerAgent(made, name="served"), handler) as client:
            await follow(client, ask("hello"))

    run(program())
    assert made.metrics.cost_by_agent() == {"served": 1.0}


def test_tasks_wait_for_the_slot(run: Run, settle: Until) -> None:
    made = scheduler(capacity=1)

    async def program() -> None:
        gate, running = asyncio.Event(), []

        async def handler(text: str, _: Any) -> str:
            running.append(text)
            await gate.wait()
            return text

        async with serve(A2ASchedulerAgent(made), handler) as client:
            tasks = [asyncio.create_task(follow(client, ask(f"t{n}", context=f"c{n}"))) for n in range(3)]
            await settle(lambda: made.resource.waiter_count == 2)
            assert len(running) == made.resource.holder_count == 1
            gate.set()
            assert [(await task)[0][-1] for task in tasks] == ["completed"] * 3

    run(program())
    assert made.resource.holder_count == 0


def test_failing_handler_is_reported_as_failed(run: Run) -> None:
    made = scheduler()

    async def handler(text: str, _: Any) -> str:
        raise ValueError("no answer")

    async def program() -> Any:
        async with serve(A2ASchedulerAgent(made), handler) as client:
            return await follow(client, ask("hello"))

    states, _, note = run(program())
    assert (states, note) == (["submitted", "working", "failed"], "ValueError: no answer")
    assert made.resource.holder_count == 0
    assert made.metrics.cost_by_agent() == {}


@pytest.mark.parametrize(("metadata", "state"), [({"weight": 0}, "failed"), ({"weight": 5.0}, "rejected")])
def test_task_that_cannot_run_is_reported(run: Run, metadata: dict[str, Any], state: str) -> None:
    made = scheduler(budget=BudgetManager(default_limit=2.0))

    async def handler(text: str, _: Any) -> str:
        raise AssertionError("must not run")

    async def program() -> Any:
        async with serve(A2ASchedulerAgent(made), handler) as client:
            return await follow(client, ask("hello", **metadata))

    states, _, note = run(program())
    assert states == ["submitted", state]
    assert note


def test_cancelled_task_frees_its_slot(run: Run, settle: Until) -> None:
    made = scheduler()

    async def program() -> Any:
        async def handler(text: str, context: Any) -> str:
            identifiers.append(context.task_id)
            await asyncio.Event().wait()
            return text

        identifiers: list[str] = []
        async with serve(A2ASchedulerAgent(made), handler) as client:
            task = asyncio.create_task(follow(client, ask("hello")))
            await settle(lambda: bool(identifiers))
            answer = await client.cancel_task(a2a_pb2.CancelTaskRequest(id=identifiers[0]))
            assert answer.status.state == a2a_pb2.TASK_STATE_CANCELED
            await settle(lambda: made.resource.holder_count == 0)
            return await task

    assert run(program())[0] == ["submitted", "working", "canceled"]


def test_calls_in_a_task_have_the_callers_identity(run: Run) -> None:
    made = loco_otel.configure(capacity=2)
    seen: list[Any] = []

    async def handler(text: str, _: Any) -> str:
        from loco_otel._runtime.identity import resolve_identity

        seen.append(resolve_identity("nobody"))
        return text

    async def program() -> None:
        async with serve(A2ASchedulerAgent(made, name="served"), handler) as client:
            await follow(client, ask("hello", context="conversation-1", agent_id="caller"))
            await follow(client, ask("hello", context="conversation-2"))

    run(program())
    assert [(it.agent, it.session) for it in seen] == [("caller", "conversation-1"), ("served", "conversation-2")]


# -- the tasks that are kept -------------------------------------------------------------------------------------------


async def save(store: RecentTaskStore, name: str, state: a2a_pb2.TaskState) -> None:
    await store.save(a2a_pb2.Task(id=name, status=a2a_pb2.TaskStatus(state=state)), ServerCallContext())


async def list_kept(store: RecentTaskStore, names: list[str]) -> list[str]:
    return [name for name in names if await store.get(name, ServerCallContext()) is not None]


def test_finished_tasks_are_dropped_and_unfinished_ones_are_not(run: Run) -> None:
    names = [f"task-{number}" for number in range(1100)]
    unfinished = ["submitted", "working", "input required", "auth required"]
    ends = [
        a2a_pb2.TASK_STATE_COMPLETED,
        a2a_pb2.TASK_STATE_FAILED,
        a2a_pb2.TASK_STATE_CANCELED,
        a2a_pb2.TASK_STATE_REJECTED,
    ]

    async def program() -> None:
        store = RecentTaskStore()
        await save(store, unfinished[0], a2a_pb2.TASK_STATE_SUBMITTED)
        await save(store, unfinished[1], a2a_pb2.TASK_STATE_WORKING)
        await save(store, unfinished[2], a2a_pb2.TASK_STATE_INPUT_REQUIRED)
        await save(store, unfinished[3], a2a_pb2.TASK_STATE_AUTH_REQUIRED)
        for number, name in enumerate(names):
            await save(store, name, a2a_pb2.TASK_STATE_WORKING)
            await save(store, name, ends[number % 4])
        assert await list_kept(store, names) == names[100:]
        assert await list_kept(store, unfinished) == unfinished

    run(program())


def test_tasks_that_are_saved_again_or_deleted_drop_no_other(run: Run) -> None:
    names = [f"task-{number}" for number in range(1000)]

    async def program() -> None:
        store = RecentTaskStore()
        for name in [*names, *names]:
            await save(store, name, a2a_pb2.TASK_STATE_COMPLETED)
        assert await list_kept(store, names) == names
        await store.delete(names[5], ServerCallContext())
        await save(store, "another", a2a_pb2.TASK_STATE_COMPLETED)
        assert await list_kept(store, names) == [*names[:5], *names[6:]]

    run(program())


def test_tasks_are_kept_in_the_programs_store(run: Run) -> None:
    store = InMemoryTaskStore()

    async def handler(text: str, context: Any) -> str:
        identifiers.append(context.task_id)
        return text

    identifiers: list[str] = []

    async def program() -> Any:
        async with serve(A2ASchedulerAgent(scheduler()), handler, task_store=store) as client:
            await follow(client, ask("hello"))
        return await store.get(identifiers[0], ServerCallContext())

    assert run(program()).status.state == a2a_pb2.TASK_STATE_COMPLETED


def test_server_drops_finished_tasks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loco_otel.compat.a2a_server._MAX_FINISHED_TASKS", 1)
    identifiers: list[str] = []

    async def handler(text: str, context: Any) -> str:
        identifiers.append(context.task_id)
        return text

    async def program() -> None:
        async with serve(A2ASchedulerAgent(scheduler()), handler) as client:
            for _ in range(3):
                await follow(client, ask("hello"))
            kept = await client.get_task(a2a_pb2.GetTaskRequest(id=identifiers[2]))
            assert kept.status.state == a2a_pb2.TASK_STATE_COMPLETED
            for dropped in identifiers[:2]:
                with pytest.raises(TaskNotFoundError):
                    await client.get_task(a2a_pb2.GetTaskRequest(id=dropped))

    run(program())
