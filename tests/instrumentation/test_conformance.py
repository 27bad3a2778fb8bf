"""What holds for the calls of every SDK, in each of its modes: see `conformance`."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, wait
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import server_fixtures
from conformance import PROMPT_TOKENS, SDKS, ConformingSdk, Mode
from effort import scale
from llm_server import LlmServer
from patience import PATIENCE
from sdk_scheduling import Scheduled, Scheduling
from sdk_versions import PAIR

from loco_otel.events import Granted, Released, Spent, Submitted, Suspended, Waiting

pytestmark = [
    # google-genai extends a class of aiohttp that is not meant to be.
    pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning"),
    # What google-genai 1 reports of its interactions.
    pytest.mark.filterwarnings("ignore:Interactions usage is experimental:UserWarning"),
    pytest.mark.filterwarnings("ignore:Async interactions client cannot use aiohttp:UserWarning"),
    # What LiteLLM imports with its first stream, and how it copies the chunk with the usage.
    pytest.mark.filterwarnings("ignore:Accessing the 'model_.*' attribute on the instance is deprecated"),
    pytest.mark.filterwarnings("ignore:Item .* is using the `ReadOnly` qualifier:UserWarning"),
]

CALLS = min(1000, scale(100 if PAIR else 250))
CAPACITY = 3

DROPS_CLIENTS = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)
"""LiteLLM makes a client for each thread that has none yet, keeps one, and drops the others without closing them."""


def parametrize(names: str, cases: Iterable[tuple[Any, ...]]) -> Callable[..., Any]:
    """Run a test for each case; the first of its values is the SDK."""
    marks = {row.name: [DROPS_CLIENTS] if row.name.startswith("litellm") else [] for row in SDKS}
    return pytest.mark.parametrize(names, [pytest.param(*case, marks=marks[case[0].name]) for case in cases], ids=str)


cases = [(sdk, mode) for sdk in SDKS for mode in sdk.modes]
each_case = parametrize("sdk, mode", cases)
each_stream = parametrize("sdk, mode", (case for case in cases if case[1].streamed))
each_async_case = parametrize("sdk, mode", (case for case in cases if case[1].is_async))
each_retrying_case = parametrize(
    "sdk, mode",
    ((sdk, mode) for sdk, mode in cases if sdk.has_retries and (sdk.retries_streams or not mode.streamed)),
)
each_sdk = parametrize("sdk", ((sdk,) for sdk in SDKS))

server = server_fixtures.server


def check_settled(sdk: ConformingSdk, scheduling: Scheduling, calls: int, cancelled: int = 0) -> None:
    """Check that each call was submitted once, gave its slot back, and has one inference span if it got a slot.

    One that is cancelled between its grant and its first step got a slot and was never sent.
    """
    scheduling.settled(calls)
    granted = {event.ticket.id for event in scheduling.seen.of(Granted)}
    assert 0 <= len(granted) - len(scheduling.spans(f"{sdk.operation} ")) <= cancelled


@each_case
def test_peak_at_server_equals_capacity(
    sdk: ConformingSdk, mode: Mode, server: LlmServer, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=2, **sdk.settings)
    server.hold()
    with sdk.open_caller(server, is_async=mode.is_async) as caller:
        calls = [caller.start(caller.call("m", streamed=mode.streamed)) for _ in range(5)]
        server.wait_for(held=2)
        scheduling.seen.wait_for(Waiting, 3)
        assert server.state().received == 2
        server.release(1)
        server.wait_for(finished=1, held=2)
        server.release()
        for call in calls:
            call.result(PATIENCE)
    assert server.peak() == 2
    check_settled(sdk, scheduling, 5)


@each_case
def test_usage_is_that_of_provider(sdk: ConformingSdk, mode: Mode, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1, stream_usage=True, **sdk.settings)
    server.configure(output_tokens=7, cached_tokens=2)
    with sdk.open_caller(server, is_async=mode.is_async) as caller:
        caller.start(caller.call("m", streamed=mode.streamed)).result(PATIENCE)
    check_settled(sdk, scheduling, 1)
    (spent,) = scheduling.seen.of(Spent)
    usage = spent.spending.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (PROMPT_TOKENS, 7)
    assert usage.cache_read_tokens == (2 if sdk.reports_cached_tokens else None)
    assert not usage.estimated


@each_retrying_case
def test_slot_is_free_during_back_off(sdk: ConformingSdk, mode: Mode, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1, **sdk.settings)
    server.hold()
    server.throttle(1, retry_after=0.01, model="first")
    with sdk.open_caller(server, is_async=mode.is_async) as caller:
        first = caller.start(caller.call("first", streamed=mode.streamed))
        server.wait_for(held=1)
        second = caller.start(caller.call("second", streamed=mode.streamed))
        scheduling.seen.wait_for(Waiting)
        server.release(1)
        # The second call is at the server, and the first, back from its pause, waits for the slot.
        server.wait_for(finished=1, held=1)
        scheduling.seen.wait_for(Waiting, 2)
        assert server.state().received == 2
        server.release()
        first.result(PATIENCE)
        second.result(PATIENCE)
    assert [request.model for request in server.requests()] == ["first", "second", "first"]
    assert server.peak() == 1
    assert len(scheduling.seen.of(Suspended)) == 1
    check_settled(sdk, scheduling, 2)


@each_stream
@pytest.mark.parametrize("ending", ["read", "closed", "broken"])
def test_stream_holds_slot_until_it_ends(
    ending: str, sdk: ConformingSdk, mode: Mode, server: LlmServer, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=1, **sdk.settings)
    server.hold(after_chunks=sdk.first_chunks, model="first")
    if ending == "broken":
        server.break_off(1, after_chunks=sdk.first_chunks, model="first")
    gate = threading.Event()
    with sdk.open_caller(server, is_async=mode.is_async) as caller:
        reading = caller.open_and_close("first", gate) if ending == "closed" else caller.call("first", streamed=True)
        first = caller.start(reading)
        server.wait_for(held=1)
        second = caller.start(caller.call("second", streamed=False))
        scheduling.seen.wait_for(Waiting)
        assert server.state().received == 1
        assert not scheduling.seen.of(Released)
        if ending == "closed":
            gate.set()
        else:
            server.release()
        second.result(PATIENCE)
        raised = first.exception(PATIENCE)
    assert (raised is not None) == (ending == "broken")
    ends = {"read": "complete", "closed": "disconnected", "broken": "broken"}
    assert [request.end for request in server.requests()] == [ends[ending], "complete"]
    assert server.peak() == 1
    check_settled(sdk, scheduling, 2)


@each_async_case
def test_cancelled_call_frees_slot(sdk: ConformingSdk, mode: Mode, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1, **sdk.settings)
    server.hold(after_chunks=sdk.first_chunks if mode.streamed else None, model="first")
    with sdk.open_caller(server, is_async=True) as caller:
        begun = threading.Event()
        first = caller.start(caller.call("first", streamed=mode.streamed, begun=begun))
        server.wait_for(held=1)
        # Mistral's client runs its hooks between a response's head and its body: a cancellation then leaves it open.
        assert not mode.streamed or begun.wait(PATIENCE)
        waiting = caller.start(caller.call("waiting", streamed=mode.streamed))
        scheduling.seen.wait_for(Waiting)
        waiting.cancel()
        second = caller.start(caller.call("second", streamed=mode.streamed))
        scheduling.seen.wait_for(Waiting, 2)
        first.cancel()
        second.result(PATIENCE)
        for cancelled in (first, waiting):
            with pytest.raises(CancelledError):
                cancelled.result(PATIENCE)
        # The server may receive the second request before it notices that the first one's client has gone.
        server.wait_for(finished=2)
    ends = [(request.model, request.end) for request in server.requests()]
    assert ends == [("first", "disconnected"), ("second", "complete")]
    check_settled(sdk, scheduling, 3)


@each_sdk
def test_nothing_is_left_after_mixed_calls(sdk: ConformingSdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=CAPACITY, **sdk.settings)
    server.break_off(None, after_chunks=sdk.first_chunks, model="broken")
    server.throttle(None, status=400, model="refused")
    count, failures, cancelled = round(CALLS * sdk.mixed_share), 0, 0
    with ExitStack() as stack:
        callers = [
            stack.enter_context(sdk.open_caller(server, is_async=is_async))
            for is_async in sorted({mode.is_async for mode in sdk.modes})
        ]
        calls = []
        for index in range(count):
            caller = callers[index % len(callers)]
            kind = index // len(callers) % 6
            failures += kind in {2, 3}
            if kind == 0:
                work = caller.call("m", streamed=False)
            elif kind == 1:
                work = caller.open_and_close("m")
            elif kind == 2:
                work = caller.call("broken", streamed=True)
            elif kind == 3:
                work = caller.call("refused", streamed=True)
            elif kind == 4 and caller.is_async:
                work = caller.call_and_cancel("m", 1 + index % 97, streamed=index % 8 < 4)
                cancelled += 1
            else:
                work = caller.call("m", streamed=True)
            calls.append(caller.start(work))
        wait(calls, PATIENCE)
        failed = 0
        for call in calls:
            with suppress(Exception):
                call.result(0)
                continue
            failed += 1
    assert failed == failures, "those that the server breaks off or refuses"
    scheduling.seen.wait_for(Submitted, count)
    assert server.peak() <= CAPACITY
    check_settled(sdk, scheduling, count, cancelled)
