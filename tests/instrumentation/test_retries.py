"""A refused call gives its slot back while it sleeps, reports the reason to the scheduler, and queues again."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import anthropic
import openai
import pytest
from patience import PATIENCE
from sdk_calls import Sdk, each_async_sdk, each_sdk, each_sync_sdk, now, opened
from sdk_http import Handler, client_of, http_of
from sdk_scheduling import Scheduled
from sdk_server import LlmServer

import loco_otel
from loco_otel._config.settings import Settings
from loco_otel._runtime import process
from loco_otel.errors import AcquireTimeoutError, ShutdownError
from loco_otel.events import (
    Gated,
    Granted,
    Limited,
    Outcome,
    RateLimits,
    Rejected,
    Released,
    Request,
    Spent,
    Submitted,
    Suspended,
    Throttled,
    ThrottleKind,
    Waiting,
)
from loco_otel.patching import wrappers
from loco_otel.patching.wrappers import suspend_slot

PAUSE = 0.1
"""Seconds that the server asks its clients to stay away."""

Refusal = dict[str, Any]


def refusal(status: int, retry_after: float = PAUSE, times: int | None = 1) -> Refusal:
    return {"type": "fail", "status": status, "retry_after": retry_after, "times": times}


# -- events and states ------------------------------------------------------------------------------------------------


@each_sdk
@pytest.mark.parametrize("streamed", [False, True])
def test_each_attempt_waits_separately(streamed: bool, sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script(refusal(429, times=2))
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            answer = await now(sdk.ask(client, stream=streamed))
            if streamed:
                await now(answer.close())

    sdk.run(main())
    scheduling.settled(1)
    assert [request.status for request in server.requests()] == [429, 429, 200]
    seen = scheduling.seen
    assert len(seen.of(Submitted)) == 1
    assert [event.repeated for event in seen.of(Granted)] == [False, True, True]
    assert [(event.status, event.kind) for event in seen.of(Throttled)] == [(429, ThrottleKind.LOAD)] * 2
    assert [event.retry_after for event in seen.of(Throttled)] == [PAUSE] * 2
    assert len(seen.of(Spent)) == 1
    told = [type(event) for event in seen.events if not isinstance(event, Submitted | Spent | Limited | Gated)]
    assert told == [*[Granted, Throttled, Suspended] * 2, Granted, Released]
    acquired = scheduling.spans("acquire ")
    assert len(acquired) == 3
    (call,) = scheduling.spans("call ")
    (inference,) = scheduling.spans("chat ")
    parents = [span.parent.span_id for span in acquired if span.parent]
    assert parents == [call.context.span_id, *[inference.context.span_id] * 2]
    assert [event.name for event in inference.events] == ["loco.throttle", "loco.throttle"]
    assert dict(inference.attributes or {})["http.request.resend_count"] == 2


@each_sdk
@pytest.mark.parametrize("status", [503, 529])
def test_overloaded_provider_lowers_the_limit(status: int, sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script(refusal(status))
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            await now(sdk.ask(client))

    sdk.run(main())
    scheduling.settled(1)
    (throttled,) = scheduling.seen.of(Throttled)
    assert (throttled.status, throttled.kind, throttled.retry_after) == (status, ThrottleKind.LOAD, PAUSE)


@each_sdk
def test_retry_after_new_runtime_frees_the_old_slot(
    sdk: Sdk, server: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script(refusal(429))
    scheduling = scheduled(capacity=1)
    replaced = []

    def replace_runtime(*pause: Any) -> Any:
        if not replaced:
            replaced.append(process.replace_runtime(Settings.load({"LOCO_CAPACITY": "1"})))
        return suspend_slot(*pause)

    monkeypatch.setattr(wrappers, "suspend_slot", replace_runtime)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            # Its scheduler is closed, so it is rejected as calls are that waited when it closed.
            with pytest.raises(ShutdownError):
                await now(sdk.ask(client))

    sdk.run(main())
    scheduling.settled(1)
    assert len(scheduling.seen.of(Throttled)) == len(scheduling.seen.of(Suspended)) == 1
    assert [resource.active for resource in loco_otel.snapshot().resources] == [0]


@each_sdk
def test_persistent_refusal_reaches_the_program(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script(refusal(429, 0.01, times=None))
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            with pytest.raises((openai.RateLimitError, anthropic.RateLimitError)):
                await now(sdk.ask(client))

    sdk.run(main())
    scheduling.settled(1)
    assert len(server.requests()) == 3
    assert [event.retry_after for event in scheduling.seen.of(Throttled)] == [0.01] * 3
    assert len(scheduling.seen.of(Suspended)) == 2
    assert not scheduling.seen.of(Spent)
    (call,) = scheduling.spans("call ")
    assert str((call.attributes or {})["error.type"]).endswith(".RateLimitError")


@each_sdk
@pytest.mark.parametrize("status", [408, 500])
def test_other_failures_are_retried_without_throttling(
    status: int, sdk: Sdk, server: LlmServer, scheduled: Scheduled
) -> None:
    server.script(refusal(status))
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            await now(sdk.ask(client))

    sdk.run(main())
    scheduling.settled(1)
    assert not scheduling.seen.of(Throttled)
    assert len(scheduling.seen.of(Suspended)) == 1


def http_for(sdk: Sdk, handler: Handler) -> Any:
    return client_of(http_of(sdk.name), handler, is_async=sdk.is_async)


@each_sdk
def test_lost_connection_is_retried_without_throttling(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    def lose(request: Any) -> Any:
        raise http_of(sdk.name).ConnectError("lost", request=request)

    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server, http_client=http_for(sdk, lose), max_retries=1)) as client:
            with pytest.raises((openai.APIConnectionError, anthropic.APIConnectionError)):
                await now(sdk.ask(client))

    sdk.run(main())
    scheduling.settled(1)
    assert not scheduling.seen.of(Throttled)
    assert [event.repeated for event in scheduling.seen.of(Granted)] == [False, True]


SPENT: dict[str, dict[str, Any]] = {
    "openai": {"error": {"message": "no money", "type": "insufficient_quota", "code": "insufficient_quota"}},
    "anthropic": {
        "type": "error",
        "error": {
            "type": "rate_limit_error",
            "message": "no money",
            "details": {"error_code": "enforced_spend_limit_reached"},
        },
    },
}
LIMITS = {
    "openai": {"x-ratelimit-remaining-requests": "0", "x-ratelimit-remaining-tokens": "12"},
    "anthropic": {"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-tokens-remaining": "12"},
}


@each_sdk
@pytest.mark.parametrize("retries", [0, 1])
def test_empty_account_is_no_load(retries: int, sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    def refuse(_: Any) -> Any:
        headers = {**LIMITS[sdk.name], "retry-after-ms": "10"}
        return http_of(sdk.name).Response(429, json=SPENT[sdk.name], headers=headers)

    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server, http_client=http_for(sdk, refuse), max_retries=retries)) as client:
            with pytest.raises((openai.RateLimitError, anthropic.RateLimitError)):
                await now(sdk.ask(client))

    sdk.run(main())
    scheduling.settled(1)
    throttled = scheduling.seen.of(Throttled)
    assert len(throttled) == 1 + retries
    assert {event.kind for event in throttled} == {ThrottleKind.SPEND}
    assert {event.limits for event in throttled} == {RateLimits(0, 12)}


# -- others get through meanwhile -------------------------------------------------------------------------------------

AWAY = 1.0
"""Seconds of a pause."""


class Pause:
    """Replaces the sleep of an SDK: it lasts until another whole call has ended."""

    def __init__(self, sdk: Sdk, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: list[float] = []
        self.over = threading.Event()
        base = import_module(f"{sdk.name}._base_client")
        for library, sleep in (("time", self._sleep), ("anyio", self._sleep_async)):
            module = getattr(base, library)
            monkeypatch.setattr(base, library, SimpleNamespace(**{**vars(module), "sleep": sleep}))

    def _sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        assert self.over.wait(PATIENCE)

    async def _sleep_async(self, seconds: float) -> None:
        await asyncio.to_thread(self._sleep, seconds)


@each_sync_sdk
def test_slot_is_free_while_a_thread_sleeps(
    sdk: Sdk, server: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = Pause(sdk, monkeypatch)
    server.script(refusal(429, AWAY))
    scheduling = scheduled(capacity=1)
    with sdk.client(server) as client, ThreadPoolExecutor(1) as pool:
        sleeper = pool.submit(_ask_as, "sleeper", sdk, client)
        scheduling.seen.wait_for(Suspended)
        _ask_as("other", sdk, client)
        pause.over.set()
        sleeper.result(PATIENCE)

    assert pause.seconds == [AWAY]
    check_that_the_other_went_between(scheduling.seen.events, server)
    scheduling.settled(2)


@each_async_sdk
def test_slot_is_free_while_a_task_sleeps(
    sdk: Sdk, server: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = Pause(sdk, monkeypatch)
    server.script(refusal(429, AWAY))
    scheduling = scheduled(capacity=1)

    async def ask(agent: str, client: Any) -> None:
        with loco_otel.as_agent(agent):
            await sdk.ask(client)

    async def main() -> None:
        async with sdk.client(server) as client:
            sleeper = asyncio.create_task(ask("sleeper", client))
            await scheduling.seen.await_event(Suspended)
            await ask("other", client)
            pause.over.set()
            await sleeper

    sdk.run(main())
    assert pause.seconds == [AWAY]
    check_that_the_other_went_between(scheduling.seen.events, server)
    scheduling.settled(2)


def check_that_the_other_went_between(events: Any, server: LlmServer) -> None:
    held = [
        (type(event), event.ticket.request.agent)
        for event in events
        if isinstance(event, Granted | Suspended | Released)
    ]
    assert held == [
        (Granted, "sleeper"),
        (Suspended, "sleeper"),
        (Granted, "other"),
        (Released, "other"),
        (Granted, "sleeper"),
        (Released, "sleeper"),
    ]
    refused, other, again = server.requests()
    assert (refused.status, other.status, again.status) == (429, 200, 200)
    assert refused.ended_at < other.started_at
    assert other.ended_at < again.started_at


def _ask_as(agent: str, sdk: Sdk, client: Any) -> None:
    with loco_otel.as_agent(agent):
        sdk.ask(client)


# -- the second wait fails --------------------------------------------------------------------------------------------


@each_sdk
def test_second_wait_past_its_timeout_raises(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1, acquire_timeout=0.05)
    engine = scheduling.runtime.engine
    next_holder = engine.create_ticket(Request("next"))

    def refuse(_: Any) -> Any:
        engine.submit(next_holder)  # waits, and gets the slot as soon as the pause begins
        return http_of(sdk.name).Response(429, headers={"retry-after-ms": "10"})

    async def main() -> None:
        async with opened(sdk.client(server, http_client=http_for(sdk, refuse))) as client:
            with pytest.raises(AcquireTimeoutError):
                await now(sdk.ask(client))

    sdk.run(main())
    engine.release(next_holder)
    check_rejected(scheduling, Outcome.TIMEOUT)


def check_rejected(scheduling: Any, outcome: Outcome) -> None:
    scheduling.settled(2)
    (rejected,) = scheduling.seen.of(Rejected)
    assert (rejected.outcome, rejected.repeated) == (outcome, True)
    assert not scheduling.seen.of(Spent)
    (call,) = [span for span in scheduling.spans("call ") if span.attributes.get("gen_ai.provider.name")]
    assert call.attributes["error.type"] == outcome.value


@each_async_sdk
def test_cancelled_pause_leaves_nothing(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script(refusal(429, 60))
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with sdk.client(server) as client:

            async def call() -> None:
                await sdk.ask(client)

            caller = asyncio.create_task(call())
            await scheduling.seen.await_event(Suspended)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller

    sdk.run(main())
    scheduling.settled(1)
    (released,) = scheduling.seen.of(Released)
    assert released.held is None
    assert not scheduling.seen.of(Spent)


@each_async_sdk
def test_cancelled_second_wait_leaves_nothing(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    engine = scheduling.runtime.engine
    next_holder = engine.create_ticket(Request("next"))

    def refuse(_: Any) -> Any:
        engine.submit(next_holder)  # waits, and gets the slot as soon as the pause begins
        return http_of(sdk.name).Response(429, headers={"retry-after-ms": "10"})

    async def main() -> None:
        async with sdk.client(server, http_client=http_for(sdk, refuse)) as client:

            async def call() -> None:
                await sdk.ask(client)

            caller = asyncio.create_task(call())
            await scheduling.seen.await_event(Waiting, 2)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller

    sdk.run(main())
    engine.release(next_holder)
    scheduling.settled(2)
    (rejected,) = scheduling.seen.of(Rejected)
    assert (rejected.outcome, rejected.repeated) == (Outcome.CANCELLED, True)


@each_sync_sdk
def test_many_refused_callers_lose_no_slot(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script(refusal(429, 0.02, times=12))
    scheduling = scheduled(capacity=2)
    with sdk.client(server, max_retries=20) as client, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: sdk.ask(client), range(16), timeout=PATIENCE))
    scheduling.settled(16)
    assert len(scheduling.seen.of(Throttled)) == 12
    assert len(scheduling.seen.of(Granted)) == 16 + 12
