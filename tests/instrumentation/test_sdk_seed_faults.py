"""The seed's faults, by their numbers, in calls of patched SDKs."""

import asyncio
import gc
import threading
import tracemalloc
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context
from itertools import count
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from patience import PATIENCE
from sdk_calls import Sdk, each_async_sdk, each_sync_sdk
from sdk_http import Handler, client_of, http_of
from sdk_scheduling import Scheduled, Scheduling
from sdk_server import KEY, LlmServer, peak

import loco_otel
from loco_otel._budgets import spend_totals
from loco_otel._core import slot_pool
from loco_otel._core.ticket import Ticket
from loco_otel._engine import in_process
from loco_otel._runtime.token_averages import TokenAverages
from loco_otel.errors import AcquireTimeoutError, BackpressureError, ShutdownError
from loco_otel.events import Granted, GrantReason, Outcome, Rejected, Released, Spent, Waiting


class Raised(Exception):
    """The program's own error."""


CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
ANSWER: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
}


def answering(handler: Handler) -> openai.OpenAI:
    """Return a client whose provider is a function in this process."""
    return openai.OpenAI(api_key=KEY, max_retries=0, http_client=client_of(http_of("openai"), handler))


def at_once(_: Any) -> Any:
    return http_of("openai").Response(200, json=ANSWER)


def asking(threads: ThreadPoolExecutor, sdk: Sdk, client: Any) -> "Future[Any]":
    """Make a call in a thread and a context of its own: one in these would be within the stream that is open here."""
    return Context().run(threads.submit, sdk.ask, client)


# -- D1: an error or a cancellation in the body leaves others asleep --------------------------------------------------


@each_sync_sdk
def test_d1_errors_in_bodies_strand_no_waiter(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=3)
    raised = []

    def read(number: int) -> None:
        with sdk.stream(client) as stream:
            for _ in stream:
                if number % 5 == 0:
                    raise Raised

    def guarded(number: int) -> None:
        try:
            read(number)
        except Raised as error:
            raised.append(error)

    with sdk.client(server) as client, ThreadPoolExecutor(20) as threads:
        list(threads.map(guarded, range(60), timeout=PATIENCE))
    assert len(raised) == 12
    scheduling.settled(60)


@each_async_sdk
def test_d1_cancelled_body_strands_no_waiter(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with sdk.client(server) as client:
            begun = asyncio.Event()

            async def read() -> None:
                async for _ in await sdk.stream(client):
                    begun.set()
                    await asyncio.Event().wait()

            async def ask() -> None:
                await sdk.ask(client)

            reader = asyncio.create_task(read())
            await begun.wait()
            others = [asyncio.create_task(ask()) for _ in range(4)]
            await scheduling.seen.await_event(Waiting, 4)
            reader.cancel()
            await asyncio.wait_for(asyncio.gather(*others), PATIENCE)

    sdk.run(main())
    scheduling.settled(5)


# -- D2: a grant is lost when its waiter leaves at the same moment ----------------------------------------------------


@each_async_sdk
def test_d2_cancelled_right_after_its_grant_loses_no_slot(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with sdk.client(server) as client:
            stream = await sdk.stream(client)

            async def ask() -> None:
                await sdk.ask(client)

            waiter = asyncio.create_task(ask(), context=Context())
            await scheduling.seen.await_event(Waiting)
            await stream.close()
            assert scheduling.active() == 1, "it is granted, and does not know it yet"
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            assert scheduling.active() == 0
            await sdk.ask(client)

    sdk.run(main())
    scheduling.settled(3)
    assert len(server.requests()) == 2


def test_d2_timed_out_at_its_grant_loses_no_slot(scheduled: Scheduled) -> None:
    timeout = 0.005
    scheduling = scheduled(capacity=1, acquire_timeout=timeout)
    trials = 60
    never = threading.Event()

    def ask() -> bool:
        try:
            client.chat.completions.create(**CHAT)
        except AcquireTimeoutError:
            return False
        return True

    with answering(at_once) as client, ThreadPoolExecutor(1) as threads:
        for _ in range(trials):
            with loco_otel.slot("holder", timeout=PATIENCE):
                waiter = Context().run(threads.submit, ask)
                never.wait(timeout)
            waiter.result(PATIENCE)
            assert scheduling.active() == 0
    scheduling.settled(2 * trials)


# -- D3: the timeout of one call wakes another one that has no slot ---------------------------------------------------


@each_sync_sdk
def test_d3_timeout_wakes_no_other_waiter(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1, acquire_timeout=0.1)
    with sdk.client(server) as client, ThreadPoolExecutor(2) as threads:
        stream = sdk.stream(client)
        first = asking(threads, sdk, client)
        scheduling.seen.wait_for(Waiting, 1)
        loco_otel.configure(acquire_timeout=None)
        second = asking(threads, sdk, client)
        scheduling.seen.wait_for(Waiting, 2)
        with pytest.raises(AcquireTimeoutError):
            first.result(PATIENCE)
        assert not second.done()
        assert (scheduling.active(), scheduling.waiting()) == (1, 1)
        stream.close()
        second.result(PATIENCE)
    scheduling.settled(3)
    assert len(server.requests()) == 2


# -- D4: shutdown runs those that it turned away ----------------------------------------------------------------------


@each_sync_sdk
def test_d4_call_rejected_by_shutdown_does_not_run(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    with sdk.client(server) as client, ThreadPoolExecutor(10) as threads:
        stream = sdk.stream(client)
        waiters = [asking(threads, sdk, client) for _ in range(10)]
        scheduling.seen.wait_for(Waiting, 10)
        scheduling.runtime.close()
        for waiter in waiters:
            with pytest.raises(ShutdownError):
                waiter.result(PATIENCE)
        with pytest.raises(ShutdownError):
            sdk.ask(client)
        assert list(stream), "who holds may finish"
    assert len(server.requests()) == 1
    assert len(scheduling.seen.of(Released)) == 1
    assert {event.outcome for event in scheduling.seen.of(Rejected)} == {Outcome.SHUTDOWN}


# -- D6: a waiter without a queued task is never granted --------------------------------------------------------------


@each_sync_sdk
def test_d6_workers_of_one_agent_run_in_turn(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    with sdk.client(server) as client, ThreadPoolExecutor(3) as threads:
        stream = sdk.stream(client)
        workers = []
        for waiting in range(1, 4):  # one after the other: of those that come at once, threads decide the order
            workers.append(asking(threads, sdk, client))
            scheduling.seen.wait_for(Waiting, waiting)
        stream.close()
        for worker in workers:
            worker.result(PATIENCE)
    scheduling.settled(4)
    waited = [event.ticket.id for event in scheduling.seen.of(Waiting)]
    granted = [event.ticket.id for event in scheduling.seen.of(Granted) if event.reason is GrantReason.SCORE]
    assert len(waited) == 3
    assert granted == waited, "in their order"


# -- D9: a dropped handle is a lost slot, a nested call hangs, a raised capacity is not used --------------------------


@each_sync_sdk
def test_d9_dropped_stream_admits_the_next(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    with sdk.client(server) as client, ThreadPoolExecutor(1) as threads:
        stream = sdk.stream(client)
        next(stream)
        waiter = asking(threads, sdk, client)
        scheduling.seen.wait_for(Waiting)
        del stream
        waiter.result(PATIENCE)
    scheduling.settled(2)


@each_sync_sdk
def test_d9_raised_capacity_admits_all(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    with sdk.client(server) as client, ThreadPoolExecutor(3) as threads:
        stream = sdk.stream(client)
        waiters = [asking(threads, sdk, client) for _ in range(3)]
        scheduling.seen.wait_for(Waiting, 3)
        loco_otel.configure(capacity=4)
        scheduling.seen.wait_for(Granted, 4)
        for waiter in waiters:
            waiter.result(PATIENCE)
        stream.close()
    scheduling.settled(4)


# -- D13: two event loops, many threads -------------------------------------------------------------------------------


@each_async_sdk
def test_d13_waiter_in_another_loop_is_woken(
    sdk: Sdk, server: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_process, "_HEARTBEAT", 2 * PATIENCE)  # the timer would wake it too late
    scheduling = scheduled(capacity=1)

    async def hold() -> None:
        async with sdk.client(server) as client, await sdk.stream(client):
            await scheduling.seen.await_event(Waiting)

    async def ask() -> None:
        await scheduling.seen.await_event(Granted)
        async with sdk.client(server) as client:
            await sdk.ask(client)

    with ThreadPoolExecutor(2) as threads:
        for loop in [threads.submit(asyncio.run, hold()), threads.submit(asyncio.run, ask())]:
            loop.result(PATIENCE)
    scheduling.settled(2)


def test_d13_hammer_of_threads_loses_and_exceeds_no_slot(scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=3)
    open_now: list[None] = []
    most = []

    def answer(request: Any) -> Any:
        open_now.append(None)
        most.append(len(open_now))
        response = at_once(request)
        open_now.pop()
        return response

    def work(number: int) -> None:
        with loco_otel.as_agent(f"agent {number % 4}"):
            for _ in range(25):
                client.chat.completions.create(**CHAT)

    with answering(answer) as client, ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8), timeout=PATIENCE))
    scheduling.settled(200)
    assert len(most) == 200
    assert max(most) <= 3
    assert not scheduling.seen.of(Rejected)


# -- D16: failed calls keep their weight ------------------------------------------------------------------------------


def nobody_queues(scheduling: Scheduling) -> bool:
    return not any(resource.agents for resource in scheduling.runtime.engine.take_snapshot().resources)


@each_sync_sdk
def test_d16_failed_calls_leave_no_load(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script({"type": "fail", "status": 500, "times": 5})
    scheduling = scheduled(capacity=1)
    with sdk.client(server, max_retries=0) as client:
        for _ in range(5):
            with pytest.raises((openai.InternalServerError, anthropic.InternalServerError)):
                sdk.ask(client)
        assert nobody_queues(scheduling)
    scheduling.settled(5)


@each_sync_sdk
def test_d16_rejected_calls_leave_no_load(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1, max_waiters=1, acquire_timeout=0.01)
    with sdk.client(server) as client, ThreadPoolExecutor(1) as threads:
        stream = sdk.stream(client)
        with pytest.raises(AcquireTimeoutError):
            asking(threads, sdk, client).result(PATIENCE)
        loco_otel.configure(acquire_timeout=None)
        waiter = asking(threads, sdk, client)
        scheduling.seen.wait_for(Waiting, 2)
        for _ in range(3):
            with pytest.raises(BackpressureError):
                Context().run(sdk.ask, client)
        stream.close()
        waiter.result(PATIENCE)
        assert nobody_queues(scheduling)
    scheduling.settled(6)
    assert len(server.requests()) == 2


# -- D21e: a stream gives its slot back when it is made ---------------------------------------------------------------


@each_sync_sdk
def test_d21e_stream_holds_its_slot_until_it_is_read(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script({"type": "stream_fault", "kind": "stall", "after_chunks": 2, "stall_seconds": 0.12, "times": None})
    scheduling = scheduled(capacity=1)
    with sdk.client(server) as client, ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: list(sdk.stream(client)), range(8), timeout=PATIENCE))
    scheduling.settled(8)
    assert peak(server.requests()) == 1
    for event in scheduling.seen.of(Spent):
        assert event.spending.usage is not None
        assert event.spending.usage.output_tokens > 0


# -- D27: memory grows with each call ---------------------------------------------------------------------------------


def test_d27_ended_calls_leave_nothing_behind(scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_pool, "_FAIRNESS_WINDOW", 100)
    monkeypatch.setattr(spend_totals, "MAX_KEYS", 20)
    scheduling = scheduled(capacity=2)
    scheduling.runtime.averages = TokenAverages(20)
    agents = count()
    ours = tracemalloc.Filter(True, str(Path(loco_otel.__file__).parent / "*"))

    def work(calls: int) -> int:
        for _ in range(calls):
            with loco_otel.as_agent(f"agent {next(agents)}"):
                client.chat.completions.create(**CHAT)
        scheduling.forget()
        gc.collect()
        traces = tracemalloc.take_snapshot().filter_traces([ours]).traces
        return sum(trace.size for trace in traces)

    def tickets() -> int:
        # Not `isinstance`, which asks the lazy proxies among them. Other tests may have left some.
        gc.collect()
        return sum(type(it) is Ticket for it in gc.get_objects())

    left = tickets()
    with answering(at_once) as client:
        tracemalloc.start()
        try:
            # The fairness index covers this number of calls.
            work(120)
            before = work(20)
            after = work(200)
        finally:
            tracemalloc.stop()
    assert after - before < 4_000
    assert tickets() - left <= 2
