"""A refused call gives its slot back while it sleeps, tells the scheduler why, and queues again."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Any

import anthropic
import openai
import pytest
from sdk_calls import Sdk, each_async_sdk, each_sdk, each_sync_sdk, now, opened
from sdk_http import Handler, client_of, http_of
from sdk_scheduling import SOON, Scheduled
from sdk_server import LlmServer

import loco_otel
from loco_otel._config.settings import Settings
from loco_otel._runtime import process
from loco_otel.errors import AcquireTimeoutError, ShutdownError
from loco_otel.events import (
    Granted,
    Outcome,
    RateLimits,
    Rejected,
    Released,
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


# -- what the scheduler is told ---------------------------------------------------------------------------------------


@each_sdk
@pytest.mark.parametrize("streamed", [False, True])
def test_each_attempt_is_a_wait_of_its_own(streamed: bool, sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
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
    told = [type(event) for event in seen.events if not isinstance(event, Submitted | Spent)]
    assert told == [*[Granted, Throttled, Suspended] * 2, Granted, Released]
    acquired = scheduling.spans("acquire ")
    assert len(acquired) == 3
    (call,) = scheduling.spans("call ")
    (inference,) = scheduling.spans("chat ")
    parents = [span.parent.span_id for span in acquired if span.parent]
    assert parents == [call.context.span_id, *[inference.context.span_id] * 2]
    assert [event.name for event in inference.events] == ["loco.throttle", "loco.throttle", "loco.spend"]
    assert dict(inference.attributes or {})["http.request.resend_count"] == 2


@each_sdk
@pytest.mark.parametrize("status", [503, 529])
def test_an_overloaded_provider_pushes_back_too(status: int, sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
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
def test_a_refusal_that_stays_reaches_the_program(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
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
def test_other_failures_are_retried_without_a_throttle(
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
def test_a_lost_connection_is_retried_without_a_throttle(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
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
def test_an_empty_account_is_no_load(retries: int, sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
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
"""Seconds of a pause in which another whole call finds room."""


@each_sync_sdk
def test_the_slot_is_free_while_a_thread_sleeps(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script(refusal(429, AWAY))
    scheduling = scheduled(capacity=1)
    with sdk.client(server) as client, ThreadPoolExecutor(1) as pool:
        sleeper = pool.submit(_ask_as, "sleeper", sdk, client)
        scheduling.seen.wait_for(Suspended)
        _ask_as("other", sdk, client)
        sleeper.result(SOON)

    check_that_the_other_went_between(scheduling.seen.events, server)
    scheduling.settled(2)


@each_async_sdk
def test_the_slot_is_free_while_a_task_sleeps(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script(refusal(429, AWAY))
    scheduling = scheduled(capacity=1)

    async def ask(agent: str, client: Any) -> None:
        with loco_otel.as_agent(agent):
            await sdk.ask(client)

    async def main() -> None:
        async with sdk.client(server) as client:
            sleeper = asyncio.create_task(ask("sleeper", client))
            await scheduling.seen.told(Suspended)
            await ask("other", client)
            await sleeper

    sdk.run(main())
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
    assert again.started_at - refused.ended_at >= AWAY


def _ask_as(agent: str, sdk: Sdk, client: Any) -> None:
    with loco_otel.as_agent(agent):
        sdk.ask(client)


# -- the second wait fails --------------------------------------------------------------------------------------------


@each_sync_sdk
def test_a_second_wait_that_is_too_long_raises(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script(refusal(429))
    scheduling = scheduled(capacity=1, acquire_timeout=0.2)
    taken = threading.Event()
    done = threading.Event()

    def take() -> None:
        scheduling.seen.wait_for(Suspended)
        with loco_otel.slot():
            taken.set()
            done.wait(SOON)

    with sdk.client(server) as client, ThreadPoolExecutor(1) as pool:
        taker = pool.submit(take)
        with pytest.raises(AcquireTimeoutError):
            sdk.ask(client)
        assert taken.is_set()
        done.set()
        taker.result(SOON)
    check_rejected(scheduling, Outcome.TIMEOUT)


@each_async_sdk
def test_a_second_wait_of_a_task_that_is_too_long_raises(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script(refusal(429))
    scheduling = scheduled(capacity=1, acquire_timeout=0.2)

    async def take(done: asyncio.Event) -> None:
        await scheduling.seen.told(Suspended)
        async with loco_otel.slot():
            await done.wait()

    async def main() -> None:
        done = asyncio.Event()
        async with sdk.client(server) as client:
            taker = asyncio.create_task(take(done))
            with pytest.raises(AcquireTimeoutError):
                await sdk.ask(client)
            done.set()
            await taker

    sdk.run(main())
    check_rejected(scheduling, Outcome.TIMEOUT)


def check_rejected(scheduling: Any, outcome: Outcome) -> None:
    scheduling.settled(2)
    (rejected,) = scheduling.seen.of(Rejected)
    assert (rejected.outcome, rejected.repeated) == (outcome, True)
    assert not scheduling.seen.of(Spent)
    (call,) = [span for span in scheduling.spans("call ") if span.attributes.get("gen_ai.provider.name")]
    assert call.attributes["error.type"] == outcome.value


@each_async_sdk
def test_cancelled_in_its_pause(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script(refusal(429, 60))
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with sdk.client(server) as client:

            async def call() -> None:
                await sdk.ask(client)

            caller = asyncio.create_task(call())
            await scheduling.seen.told(Suspended)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller

    sdk.run(main())
    scheduling.settled(1)
    (released,) = scheduling.seen.of(Released)
    assert released.held is None
    assert not scheduling.seen.of(Spent)


@each_async_sdk
def test_cancelled_in_its_second_wait(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script(refusal(429))
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with sdk.client(server) as client:

            async def call() -> None:
                await sdk.ask(client)

            # In a context of its own, not within the slot.
            caller = asyncio.create_task(call(), context=Context())
            await scheduling.seen.told(Suspended)
            async with loco_otel.slot():
                await scheduling.seen.told(Waiting)
                caller.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await caller

    sdk.run(main())
    scheduling.settled(2)
    (rejected,) = scheduling.seen.of(Rejected)
    assert (rejected.outcome, rejected.repeated) == (Outcome.CANCELLED, True)


@each_sync_sdk
def test_many_refused_callers_lose_no_slot(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script(refusal(429, 0.02, times=12))
    scheduling = scheduled(capacity=2)
    with sdk.client(server, max_retries=20) as client, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: sdk.ask(client), range(16), timeout=SOON))
    scheduling.settled(16)
    assert len(scheduling.seen.of(Throttled)) == 12
    assert len(scheduling.seen.of(Granted)) == 16 + 12
