"""Runs of patched calls at their limits, and calls that are stopped, against a real server."""

import asyncio
import contextlib
import contextvars
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sdk_server
import server_fixtures
from anthropic import Anthropic, AsyncAnthropic
from llm_server import LlmServer
from openai import AsyncOpenAI, OpenAI
from opentelemetry.trace import SpanKind
from patience import PATIENCE
from sdk_calls import CHAT, MESSAGE, each_sync_sdk, now
from sdk_http import client_of, http_of
from sdk_scheduling import Scheduled, Scheduling
from sdk_server import KEY

import loco_otel
from loco_otel import AcquireTimeoutError, BudgetExceededError, RunLimitError, StoppedError, as_agent
from loco_otel.events import LimitAction, LimitDecided, LimitReason, Rejected, Waiting
from loco_otel.money import Scope

CALLERS = 64
CAP = 10

server = server_fixtures.server


def client(server: LlmServer, sdk: str = "openai", *, is_async: bool = False) -> Any:
    make: Any = {
        ("openai", False): OpenAI,
        ("openai", True): AsyncOpenAI,
        ("anthropic", False): Anthropic,
        ("anthropic", True): AsyncAnthropic,
    }[sdk, is_async]
    return make(api_key=KEY, base_url=server.url(sdk), max_retries=0)


def ask(made: Any, **options: Any) -> Any:
    if hasattr(made, "chat"):
        return made.chat.completions.create(**{**CHAT, **options})
    return made.messages.create(**{**MESSAGE, **options})


def decisions(scheduling: Scheduling) -> Counter[tuple[LimitReason, LimitAction]]:
    return Counter((event.reason, event.action) for event in scheduling.seen.of(LimitDecided))


def inference_errors(scheduling: Scheduling) -> list[object]:
    spans = [span for span in scheduling.spans() if span.kind is SpanKind.CLIENT]
    return [(span.attributes or {}).get("error.type") for span in spans]


def call_at_once(made: Any, callers: int, run: str) -> Counter[str]:
    """Make a number of calls of one run at the same moment, in threads that inherit nothing."""
    ends: Counter[str] = Counter()
    barrier = threading.Barrier(callers)

    def work() -> None:
        barrier.wait()
        try:
            with as_agent("worker", run=run):
                ask(made)
        except BudgetExceededError as error:
            ends[f"{error.scope} {error.key} {error.unit}"] += 1
        else:
            ends["answered"] += 1

    threads = [threading.Thread(target=work) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends


@each_sync_sdk
@pytest.mark.parametrize("ledger", ["none", "file"])
@pytest.mark.parametrize("capacity", ["auto", 3])
def test_calls_of_one_run_at_a_barrier_never_exceed_its_cap(
    sdk: Any,
    ledger: str,
    capacity: object,
    server: LlmServer,
    scheduled: Scheduled,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = "none" if ledger == "none" else tmp_path / "ledger.db"
    scheduling = scheduled(capacity=capacity, run_limits=f"calls={CAP}", ledger=path)
    with client(server, sdk.name) as made:
        ends = call_at_once(made, CALLERS, "r-1")
        assert ends == {"answered": CAP, "run r-1 calls": CALLERS - CAP}
        assert len(server.requests()) == CAP
        with as_agent(run="r-2"):
            ask(made)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert decisions(scheduling) == {(LimitReason.RUN_CALLS, LimitAction.REFUSED): CALLERS - CAP}
    assert {(total.by, total.calls) for total in loco_otel.spend("run")} == {(("r-1",), CAP), (("r-2",), 1)}
    assert {status.key.key: status.spent for status in loco_otel.budgets()} == {"r-1": CAP, "r-2": 1}


def test_failed_calls_count_towards_the_cap(server: LlmServer, scheduled: Scheduled) -> None:
    scheduled(run_limits="calls=3")
    server.throttle(None, status=500)
    refused = Counter[str]()
    with client(server) as made, as_agent(run="r"):
        for _ in range(5):
            with pytest.raises(Exception) as raised:
                ask(made)
            refused[type(raised.value).__name__] += 1
    assert refused == {"InternalServerError": 3, "BudgetExceededError": 2}


def replay(made: Any, times: int) -> int:
    """Let an agent make the same tool call again and again; return how many of its calls were answered."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Deploy it."}]
    for number in range(times):
        try:
            ask(made, messages=messages)
        except RunLimitError as error:
            assert (error.run, error.limit) == ("r-1", "repeats")  # noqa: PT017 - it is counted too
            return number
        call = {"id": f"call_{number}", "type": "function", "function": {"name": "deploy", "arguments": '{"to": "a"}'}}
        messages += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": "failed"},
        ]
    return times


@pytest.mark.parametrize("capacity", ["auto", 2])
def test_replay_of_220_identical_tool_calls_ends_at_the_number(
    capacity: object, server: LlmServer, scheduled: Scheduled, caplog: pytest.LogCaptureFixture
) -> None:
    scheduling = scheduled(capacity=capacity, run_limits="repeats=4")
    with client(server) as made, as_agent("deployer", run="r-1"):
        assert replay(made, 220) == 8
    assert len(server.requests()) == 8
    assert decisions(scheduling) == {
        (LimitReason.RUN_REPEATS, LimitAction.WARNED): 1,
        (LimitReason.RUN_REPEATS, LimitAction.REFUSED): 1,
    }
    (rejected,) = scheduling.seen.of(Rejected)
    assert (rejected.outcome, rejected.ticket.request.run) == ("limit", "r-1")
    assert "'to'" not in caplog.text


@pytest.mark.parametrize(("is_same", "answered"), [(False, 12), (True, 4)], ids=["different", "same"])
def test_tool_calls_of_responses_are_counted_once(
    is_same: bool, answered: int, llm_server: sdk_server.LlmServer, scheduled: Scheduled
) -> None:
    llm_server.reset()
    scheduling = scheduled(run_limits="repeats=2")
    turns: list[Any] = [{"role": "user", "content": "Search."}]
    with llm_server.openai() as made, as_agent(run="r-1"), contextlib.suppress(RunLimitError):
        for number in range(12):
            made.responses.create(model="gpt-4o", input=turns)
            call = {"call_id": f"c{number}", "name": "search", "arguments": f'{{"q": {0 if is_same else number}}}'}
            turns += [
                {"type": "reasoning", "id": f"rs_{number}", "summary": []},
                {"type": "function_call", **call},
                {"type": "function_call_output", "call_id": call["call_id"], "output": "nothing"},
            ]
    assert len(llm_server.requests()) == answered
    assert decisions(scheduling)[LimitReason.RUN_REPEATS, LimitAction.REFUSED] == is_same


def test_observe_lets_everything_through_and_counts(server: LlmServer, scheduled: Scheduled, tmp_path: Path) -> None:
    file = tmp_path / "stop"
    file.write_text("agent=other")
    scheduling = scheduled(
        mode="observe", capacity=1, max_waiters=1, run_limits="calls=5,repeats=2", budgets="*=0", stop_file=file
    )
    server.hold()
    with client(server) as made:
        workers = [threading.Thread(target=lambda: call_at_once(made, 1, "r-0")) for _ in range(8)]
        for worker in workers:
            worker.start()
        server.wait_for(held=8, timeout=PATIENCE)
        server.release()
        for worker in workers:
            worker.join()
        with as_agent("deployer", run="r-1"):
            assert replay(made, 10) == 10
        with as_agent("other"):
            ask(made)
    assert scheduling.seen.of(Waiting) == []
    assert scheduling.seen.of(Rejected) == []
    would = {
        reason: number for (reason, action), number in decisions(scheduling).items() if action is LimitAction.WOULD
    }
    assert would == {LimitReason.BUDGET: 19, LimitReason.RUN_REPEATS: 6, LimitReason.STOPPED: 1}


def test_capacity_of_zero_lets_none_go_until_it_is_raised(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=0, acquire_timeout=0)
    with client(server) as made:
        with pytest.raises(AcquireTimeoutError):
            ask(made)
        loco_otel.configure(acquire_timeout=None)
        waiting = threading.Thread(target=ask, args=(made,))
        waiting.start()
        scheduling.seen.wait_for(Waiting)
        assert server.requests() == []
        loco_otel.configure(capacity=1)
        waiting.join(PATIENCE)
        assert len(server.requests()) == 1


def test_budget_of_zero_lets_none_go(server: LlmServer, scheduled: Scheduled) -> None:
    scheduled(budgets="*=0")
    with client(server) as made, pytest.raises(BudgetExceededError, match=r"of \$0\.00"):
        ask(made, model="a-model-without-a-price")
    assert server.requests() == []


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("scope", [Scope.RUN, Scope.SESSION, Scope.AGENT, Scope.TENANT])
def test_stop_turns_away_waiters_and_new_calls_at_once(
    scope: Scope, is_async: bool, server: LlmServer, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=1)
    names: dict[str, Any] = {scope.value: "x"}
    server.hold()

    def call(made: Any) -> Any:
        async def call_async() -> str:
            with as_agent(**{"agent": "other", **names}):
                await ask(made)
            return "answered"

        def call_sync() -> str:
            with as_agent(**{"agent": "other", **names}):
                ask(made)
            return "answered"

        return call_async() if is_async else asyncio.to_thread(call_sync)

    async def end(calling: Any) -> str:
        try:
            return str(await calling)
        except StoppedError as error:
            return f"{error.scope} {error.key}"

    async def run() -> list[str]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(16))
        made = client(server, is_async=is_async)
        tasks = [asyncio.ensure_future(end(call(made))) for _ in range(4)]
        await scheduling.seen.await_event(Waiting, 3)
        assert await asyncio.to_thread(lambda: loco_otel.stop(**names)) == 3
        done, _ = await asyncio.wait(tasks, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        assert done
        assert await end(call(made)) == f"{scope} x"
        await asyncio.to_thread(server.release)
        ends = await asyncio.gather(*tasks)
        assert loco_otel.resume(**names)
        ends.append(await end(call(made)))
        await now(made.close())
        return ends

    ends = Counter(asyncio.run(run()))
    assert ends == {"answered": 2, f"{scope} x": 3}
    assert len(server.requests()) == 2


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
@pytest.mark.parametrize("is_reading", [False, True], ids=["unread", "reading"])
def test_open_stream_of_a_stopped_run_is_closed(
    sdk: str, is_reading: bool, server: LlmServer, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=1)
    server.hold(after_chunks=2)
    errors: list[Exception] = []
    started, stopped = threading.Event(), threading.Event()

    def read(made: Any) -> None:
        with as_agent(run="r"):
            stream = iter(ask(made, stream=True))
        try:
            next(stream)
            started.set()
            if not is_reading:
                assert stopped.wait(PATIENCE)
            for _ in stream:  # the server holds back the rest
                pass
        except StoppedError as error:
            errors.append(error)

    with client(server, sdk) as made:
        reader = threading.Thread(target=read, args=(made,))
        reader.start()
        assert started.wait(PATIENCE)
        server.wait_for(held=1, timeout=PATIENCE)
        loco_otel.stop(run="r", abort_streams=True)
        stopped.set()
        reader.join(PATIENCE)
        assert not reader.is_alive()
        assert [(type(error), str(error).split(":")[0]) for error in errors] == [
            (StoppedError, f"A call of {scheduling.runtime.default_agent!r} was refused")
        ]
        scheduling.settled(1)
    assert inference_errors(scheduling) == ["loco_otel.errors.StoppedError"]
    server.wait_for(in_progress=0, exact=True, timeout=PATIENCE)


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
@pytest.mark.parametrize("is_reading", [False, True], ids=["unread", "reading"])
def test_open_async_stream_of_a_stopped_run_is_closed(
    sdk: str, is_reading: bool, server: LlmServer, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=1)
    server.hold(after_chunks=2)

    async def run() -> None:
        async with client(server, sdk, is_async=True) as made:
            with as_agent(run="r"):
                stream = aiter(await ask(made, stream=True))
            await anext(stream)

            async def read() -> None:
                async for _ in stream:
                    pass

            reading = asyncio.ensure_future(read()) if is_reading else None
            await asyncio.to_thread(server.wait_for, held=1, timeout=PATIENCE)
            await asyncio.to_thread(lambda: loco_otel.stop(run="r", abort_streams=True))
            with pytest.raises(StoppedError):
                await asyncio.wait_for(read() if reading is None else reading, PATIENCE)

    asyncio.run(run())
    scheduling.settled(1)
    assert inference_errors(scheduling) == ["loco_otel.errors.StoppedError"]
    server.wait_for(in_progress=0, exact=True, timeout=PATIENCE)


class TwoChunks:
    """A stream of events over HTTP/2, of which the second comes after a stop."""

    def __init__(self) -> None:
        self.at_second = threading.Event()
        self.is_stopped = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        choice = {"index": 0, "delta": {"content": "deep"}, "finish_reason": None}
        event = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
        yield f"data: {json.dumps(event)}\n\n".encode()
        self.at_second.set()
        assert self.is_stopped.wait(PATIENCE)
        yield f"data: {json.dumps(event)}\n\n".encode()

    async def iterate_async(self) -> AsyncIterator[bytes]:
        chunks = iter(self)
        while chunk := await asyncio.to_thread(next, chunks, None):
            yield chunk

    def stop(self) -> None:
        assert self.at_second.wait(PATIENCE)
        loco_otel.stop(run="r", abort_streams=True)
        self.is_stopped.set()

    def open_client(self, *, is_async: bool = False) -> Any:
        library = http_of("openai")

        def answer(_: Any) -> Any:
            content = self.iterate_async() if is_async else iter(self)
            head = {"content-type": "text/event-stream"}
            return library.Response(200, headers=head, content=content, extensions={"http_version": b"HTTP/2"})

        kind: Any = AsyncOpenAI if is_async else OpenAI
        return kind(api_key=KEY, http_client=client_of(library, answer, is_async=is_async))


def test_sync_stream_of_http2_is_closed_with_its_next_chunk(scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    chunks = TwoChunks()
    with chunks.open_client() as made, ThreadPoolExecutor(1) as pool:
        with as_agent(run="r"):
            stream = ask(made, stream=True)
        stopping = pool.submit(chunks.stop)
        next(stream)
        with pytest.raises(StoppedError):
            next(stream)
        stopping.result()
        assert stream.response.is_closed
    scheduling.settled(1)
    assert inference_errors(scheduling) == ["loco_otel.errors.StoppedError"]


def test_async_stream_of_http2_is_closed_with_its_next_chunk(scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    chunks = TwoChunks()

    async def run() -> None:
        async with chunks.open_client(is_async=True) as made:
            with as_agent(run="r"):
                stream = await ask(made, stream=True)
            stopping = asyncio.ensure_future(asyncio.to_thread(chunks.stop))
            await anext(stream)
            with pytest.raises(StoppedError):
                await asyncio.wait_for(anext(stream), PATIENCE)
            await stopping
            assert stream.response.is_closed

    asyncio.run(run())
    scheduling.settled(1)
    assert inference_errors(scheduling) == ["loco_otel.errors.StoppedError"]


def test_stop_without_abort_leaves_open_streams(server: LlmServer, scheduled: Scheduled) -> None:
    scheduled(capacity=1)
    with client(server) as made, as_agent(run="r"):
        stream = ask(made, stream=True)
        next(stream)
        loco_otel.stop(run="r")
        assert list(stream)


def test_slot_of_a_stopped_agent_is_refused(scheduled: Scheduled) -> None:
    scheduled(capacity=1)
    loco_otel.stop(agent="crawler")
    with pytest.raises(StoppedError), loco_otel.slot("crawler"):
        pass
    with loco_otel.slot("writer"):
        pass


def test_call_inside_a_slot_is_refused_too(server: LlmServer, scheduled: Scheduled) -> None:
    scheduled(capacity=1)
    with client(server) as made, as_agent("writer", run="r"), loco_otel.slot():
        ask(made)
        loco_otel.stop(run="r")
        with pytest.raises(StoppedError):
            ask(made)
        loco_otel.resume(run="r")
        ask(made)
    assert len(server.requests()) == 2


def test_retry_of_a_stopped_run_is_refused(
    server: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduling = scheduled(capacity=1)
    server.throttle(None)

    def stop_meanwhile(_: float) -> None:
        loco_otel.stop(run="r")

    monkeypatch.setattr(time, "sleep", stop_meanwhile)
    with client(server).with_options(max_retries=2) as made, as_agent(run="r"), pytest.raises(StoppedError):
        ask(made)
    assert len(server.requests()) == 1
    scheduling.settled(1)


def stop_before(scheduling: Scheduling, monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    """Stop the run `r` between the check of its next call and an operation of the engine."""
    engine = scheduling.runtime.engine
    submit = getattr(engine, operation)

    def stop_and_submit(ticket: Any) -> None:
        monkeypatch.delattr(engine, operation)
        loco_otel.stop(run="r")
        submit(ticket)

    monkeypatch.setattr(engine, operation, stop_and_submit, raising=False)


@pytest.mark.parametrize("is_free", [True, False], ids=["free", "held"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("kind", ["call", "slot"])
def test_stop_between_check_and_submission_is_seen(
    kind: str,
    is_async: bool,
    is_free: bool,
    server: LlmServer,
    scheduled: Scheduled,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheduling = scheduled(capacity=1)

    async def take() -> None:
        made = client(server, is_async=is_async)
        with as_agent(run="r"):
            slot = loco_otel.slot()
        with contextlib.ExitStack() as holder:
            if not is_free:
                holder.enter_context(loco_otel.slot("holder"))
            stop_before(scheduling, monkeypatch, "submit")
            # Not under the holder's slot, as a call in its body would be.
            await contextvars.Context().run(asyncio.ensure_future, use(made, slot))
        await now(made.close())

    async def use(made: Any, slot: Any) -> None:
        with as_agent(run="r"), pytest.raises(StoppedError):
            if kind == "call":
                await now(ask(made))
            elif is_async:
                async with slot:
                    pass
            else:
                with slot:
                    pass

    asyncio.run(asyncio.wait_for(take(), PATIENCE))
    assert server.requests() == []
    assert scheduling.active() == scheduling.waiting() == 0


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_stop_between_check_and_retry_is_seen(
    is_async: bool, server: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduling = scheduled(capacity=1)
    server.throttle(None, headers={"retry-after-ms": "1"})
    stop_before(scheduling, monkeypatch, "resume_ticket")

    async def call() -> None:
        made = client(server, is_async=is_async).with_options(max_retries=2)
        with as_agent(run="r"), pytest.raises(StoppedError):
            await now(ask(made))
        await now(made.close())

    asyncio.run(call())
    assert len(server.requests()) == 1
    scheduling.settled(1)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_stream_that_opens_after_the_stop_is_closed(is_async: bool, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    server.hold()

    async def read() -> None:
        async with AsyncOpenAI(api_key=KEY, base_url=server.url("openai"), max_retries=0) as made:
            async for _ in await ask(made, stream=True):
                pytest.fail("a chunk came through")

    def read_sync() -> None:
        with client(server) as made:
            for _ in ask(made, stream=True):
                pytest.fail("a chunk came through")

    def run() -> None:
        with as_agent(run="r"), pytest.raises(StoppedError):
            if is_async:
                asyncio.run(read())
            else:
                read_sync()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(run)
        server.wait_for(held=1, timeout=PATIENCE)
        loco_otel.stop(run="r", abort_streams=True)
        server.release()
        done.result(PATIENCE)
    scheduling.settled(1)


def test_stream_under_a_slot_of_its_own_is_closed(server: LlmServer, scheduled: Scheduled) -> None:
    scheduled(capacity=1)
    server.hold(after_chunks=2)
    with client(server) as made, loco_otel.slot("writer"), as_agent(run="r"):
        stream = iter(ask(made, stream=True))
        next(stream)
        loco_otel.stop(run="r", abort_streams=True)
        with pytest.raises(StoppedError):
            list(stream)


@pytest.mark.parametrize("names", [{}, {"run": "a", "agent": "b"}, {"run": ""}, {"run": 5}])
def test_stop_requires_one_name(names: dict[str, Any], scheduled: Scheduled) -> None:
    scheduled()
    with pytest.raises(ValueError, match="must be"):
        loco_otel.stop(**names)
