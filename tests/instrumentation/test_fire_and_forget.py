"""Calls that the program starts under a slot or a stream and does not wait for: the capacity holds at the server."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import server_fixtures
from llm_server import LlmServer
from openai import AsyncOpenAI, OpenAI
from patience import PATIENCE
from sdk_calls import CHAT
from sdk_scheduling import Scheduled

import loco_otel
from loco_otel._core import deadlock
from loco_otel.events import Waiting

server = server_fixtures.server


@pytest.fixture
def slow_stream(server: LlmServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delay the chunks, and let their reader count as reading between them, however long a busy machine delays it."""
    server.configure(output_tokens=12, chunk_delay=0.05, delay=0.0)
    monkeypatch.setattr(deadlock, "READING_GRACE", PATIENCE)


def connect(server: LlmServer) -> OpenAI:
    return OpenAI(base_url=server.url("openai"), api_key="none", max_retries=0)


def connect_async(server: LlmServer) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=server.url("openai"), api_key="none", max_retries=0)


@pytest.mark.usefixtures("slow_stream")
def test_tasks_beside_a_stream_wait_for_its_end(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with connect_async(server) as client:
            ask = client.chat.completions.create
            tasks: list[asyncio.Task[Any]] = []
            async for _ in await ask(stream=True, **CHAT):
                if not tasks:
                    tasks = [asyncio.create_task(ask(**CHAT)) for _ in range(5)]
            await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)

    asyncio.run(main())
    scheduling.settled(6)
    assert server.peak() == 1


@pytest.mark.usefixtures("slow_stream")
def test_jobs_beside_a_stream_wait_for_its_end(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    with connect(server) as client, ThreadPoolExecutor(5) as pool:
        ask = client.chat.completions.create
        jobs = []
        for _ in ask(stream=True, **CHAT):
            if not jobs:
                jobs = [pool.submit(ask, **CHAT) for _ in range(5)]
        for job in jobs:
            job.result(PATIENCE)
    scheduling.settled(6)
    assert server.peak() == 1


@pytest.mark.parametrize("settings", [{}, {"stream_usage": True}], ids=str)
def test_pool_filled_inside_a_slot_keeps_the_capacity(
    settings: dict[str, object], server: LlmServer, scheduled: Scheduled
) -> None:
    scheduled(capacity=4, **settings)
    server.configure(delay=0.05)
    with connect(server) as client, ThreadPoolExecutor(20) as pool:
        with loco_otel.slot():
            jobs = [pool.submit(client.chat.completions.create, **CHAT) for _ in range(20)]
        for job in jobs:
            job.result(PATIENCE)
    assert len(server.requests()) == 20
    assert server.peak() <= 4


def test_tasks_inside_a_slot_keep_the_capacity(server: LlmServer, scheduled: Scheduled) -> None:
    scheduled(capacity=2)
    server.configure(delay=0.02)

    async def main() -> None:
        async with connect_async(server) as client, loco_otel.slot():
            await asyncio.gather(*[client.chat.completions.create(**CHAT) for _ in range(8)])

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert server.peak() == 2


def test_call_that_outlives_its_slot_keeps_it(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    server.hold()

    async def main() -> None:
        async with connect_async(server) as client:
            ask = client.chat.completions.create
            async with loco_otel.slot():
                first = asyncio.create_task(ask(**CHAT))
                await asyncio.to_thread(server.wait_for, held=1)
            second = asyncio.create_task(ask(**CHAT))
            await scheduling.seen.await_event(Waiting)
            assert server.state().received == 1
            server.release()
            await asyncio.wait_for(asyncio.gather(first, second), PATIENCE)

    asyncio.run(main())
    assert server.peak() == 1
    assert scheduling.active() == 0


def test_calls_one_after_the_other_run_under_the_slot(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    with connect(server) as client, loco_otel.slot():
        for _ in range(3):
            client.chat.completions.create(**CHAT)
        with client.chat.completions.create(stream=True, **CHAT):
            client.chat.completions.create(**CHAT)  # shares the slot
    assert len(server.requests()) == 5
    assert not scheduling.active()
