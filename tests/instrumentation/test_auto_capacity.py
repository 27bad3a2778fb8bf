"""`LOCO_CAPACITY=auto`, and resources from the settings: real SDKs against servers that push back."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import Context
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from patience import PATIENCE
from sdk_busy import BusyServer
from sdk_calls import CHAT, MESSAGE, Sdk, each_sdk, each_sync_sdk, now, opened
from sdk_http import client_of, http_of
from sdk_scheduling import Scheduled
from sdk_server import KEY, LlmServer

import loco_otel
from loco_otel.events import Granted, ResourceSnapshot, Spent, Submitted, Throttled, ThrottleKind, Waiting


def standing(name: str) -> ResourceSnapshot:
    return next(resource for resource in loco_otel.snapshot().resources if resource.resource == name)


def resource(sdk: str, server: LlmServer) -> str:
    """Return the rule that makes the server this SDK's provider."""
    return f"{sdk}/127.0.0.1:{server.port}"


class Story:
    """A provider in this process: one answer, or error, after the other."""

    def __init__(self, sdk: str) -> None:
        self.library = http_of(sdk)
        self.answers: list[Any] = []
        self._make = openai.OpenAI if sdk == "openai" else anthropic.Anthropic

    def tell(self, status: int, body: object, **options: Any) -> None:
        self.answers.append(self.library.Response(status, json=body, **options))

    def stream(self, *parts: str) -> None:
        content = (part.encode() for part in parts)
        headers = {"content-type": "text/event-stream"}
        self.answers.append(self.library.Response(200, content=content, headers=headers))

    def client(self, max_retries: int = 0) -> Any:
        return self._make(api_key=KEY, http_client=client_of(self.library, self._answer), max_retries=max_retries)

    def _answer(self, _: Any) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_limited_provider_refuses_little_and_slows_no_other(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity="auto")
    with (
        BusyServer(4, seconds=0.02, retry_after=0.05) as busy,
        openai.OpenAI(api_key=KEY, base_url=busy.url, max_retries=20) as client,
        server.anthropic() as other,
        ThreadPoolExecutor(24) as pool,
        ThreadPoolExecutor(8) as others,
    ):
        meanwhile = [others.submit(other.messages.create, **MESSAGE) for _ in range(40)]
        list(pool.map(lambda _: client.chat.completions.create(**CHAT), range(100)))
        first = busy.seen()["refused"]
        list(pool.map(lambda _: client.chat.completions.create(**CHAT), range(300)))
        seen = busy.seen()
        for future in meanwhile:
            future.result(PATIENCE)
    assert (seen["served"], first > 0) == (400, True)
    # About one in a hundred on an idle machine, more where the real pauses of a busy one drift. Without a limit nearly
    # two are refused for each that is served.
    assert seen["refused"] - first <= 0.2 * 300
    assert standing(f"openai/{busy.url.removeprefix('http://')}").capacity in range(1, 8)
    assert {event.ticket.request.provider for event in scheduling.seen.of(Waiting)} == {"openai"}
    scheduling.settled(440)


def test_refusals_of_one_provider_slow_no_other(server: LlmServer, scheduled: Scheduled) -> None:
    scheduled(capacity="auto")
    with server.openai() as client, server.anthropic() as other:
        client.chat.completions.create(**CHAT)
        other.messages.create(**MESSAGE)
        ours, theirs = resource("openai", server), resource("anthropic", server)
        assert (standing(ours).capacity, standing(theirs).capacity) == (None, None)
        server.script({"type": "fail", "status": 429, "retry_after": 0.05, "times": 1})
        client.chat.completions.create(**CHAT)
        other.messages.create(**MESSAGE)
    assert (standing(ours).capacity, standing(theirs).capacity) == (2, None)


def test_nothing_is_sent_before_the_providers_instant(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity="auto")
    server.script({"type": "fail", "status": 429, "retry_after": 0.5, "times": 1})
    with server.openai(max_retries=2) as client, ThreadPoolExecutor(4) as pool:
        refused = pool.submit(client.chat.completions.create, **CHAT)
        scheduling.seen.wait_for(Throttled)
        others = [pool.submit(client.chat.completions.create, **CHAT) for _ in range(3)]
        for future in (refused, *others):
            future.result(PATIENCE)
    first, *following = server.requests()
    assert (first.status, len(following)) == (429, 4)
    assert all(request.started_at >= first.ended_at + 0.45 for request in following)


@each_sdk
def test_late_answer_lowers_the_limit(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity="auto")
    server.script({"type": "delay", "seconds": 8.0, "times": 1})

    async def main() -> None:
        async with opened(sdk.client(server, timeout=2.0, max_retries=1)) as client:
            await now(sdk.ask(client))

    sdk.run(main())
    (throttled,) = scheduling.seen.of(Throttled)
    assert (throttled.status, throttled.kind, throttled.retry_after) == (None, ThrottleKind.TIMEOUT, None)
    assert standing(resource(sdk.name, server)).capacity == 2, "one, and one more after the success that followed"
    (inference,) = scheduling.spans("chat ")
    assert [dict(event.attributes or {}) for event in inference.events if event.name == "loco.throttle"] == [
        {"loco.throttle.kind": "timeout"}
    ]


def test_remaining_limits_apply_after_a_refusal(scheduled: Scheduled) -> None:
    story = Story("openai")
    some = {"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "1m"}
    none = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2m30s"}
    story.tell(429, {}, headers={"retry-after-ms": "1"})
    story.tell(200, {}, headers=some)
    story.tell(200, {}, headers=none)
    scheduling = scheduled(capacity="auto", acquire_timeout=0)
    with story.client(max_retries=1) as client:
        client.chat.completions.create(**CHAT)
        client.chat.completions.create(**CHAT)
        with pytest.raises(loco_otel.AcquireTimeoutError):
            client.chat.completions.create(**CHAT)
    assert story.answers == []
    scheduling.settled(3)


def test_retry_instant_is_kept_like_a_duration(scheduled: Scheduled) -> None:
    story = Story("openai")
    story.tell(429, {}, headers={"retry-after": format_datetime(datetime.now(UTC) + timedelta(minutes=1), usegmt=True)})
    scheduling = scheduled(capacity="auto", acquire_timeout=0)
    with story.client() as client:
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(**CHAT)
        with pytest.raises(loco_otel.AcquireTimeoutError):
            client.chat.completions.create(**CHAT)
    (throttled,) = scheduling.seen.of(Throttled)
    assert throttled.retry_after == pytest.approx(60.0, abs=5.0)
    paused = standing("openai/api.openai.com")
    assert paused.pause == pytest.approx(60.0, abs=15.0)
    assert paused.pause_header == "retry-after"
    assert "s: the provider asks for it, by its header retry-after" in str(loco_otel.dump())


@each_sync_sdk
@pytest.mark.parametrize(("error", "kinds"), [("ReadTimeout", [ThrottleKind.TIMEOUT]), ("PoolTimeout", [])])
def test_local_exhaustion_lowers_no_limit(
    error: str, kinds: list[ThrottleKind], sdk: Sdk, scheduled: Scheduled
) -> None:
    story = Story(sdk.name)
    story.answers.append(getattr(story.library, error)("too late"))
    scheduling = scheduled(capacity="auto")
    with story.client() as client, pytest.raises((openai.APITimeoutError, anthropic.APITimeoutError)):
        sdk.ask(client)
    scheduling.settled(1)
    assert [event.kind for event in scheduling.seen.of(Throttled)] == kinds


WITHIN = {
    "openai": ("data: " + json.dumps({"error": {"code": "rate_limit_exceeded", "message": "too many"}}), 429),
    "anthropic": ("event: error\ndata: " + json.dumps({"type": "error", "error": {"type": "overloaded_error"}}), 529),
}


@each_sync_sdk
def test_stream_broken_by_overload_lowers_the_limit(sdk: Sdk, scheduled: Scheduled) -> None:
    line, status = WITHIN[sdk.name]
    story = Story(sdk.name)
    story.stream(line + "\n\n")
    scheduling = scheduled(capacity="auto")
    with story.client() as client, pytest.raises((openai.APIError, anthropic.APIError)):
        list(sdk.stream(client))
    scheduling.settled(1)
    (throttled,) = scheduling.seen.of(Throttled)
    assert (throttled.status, throttled.kind) == (status, ThrottleKind.LOAD)
    (known,) = [each for each in loco_otel.snapshot().resources if each.capacity is not None]
    assert known.capacity == 1


@pytest.mark.parametrize(("read", "capacity"), [("whole", 2), ("first", 2), ("broken", 1)])
def test_only_served_calls_count_as_success(read: str, capacity: int, scheduled: Scheduled) -> None:
    """After the refusal of one the limit is one, and one success lets it try two."""
    chunk = "data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": "ahoy"}}]}) + "\n\n"
    story = Story("openai")
    story.tell(429, {}, headers={"retry-after-ms": "1"})
    story.stream(chunk, "data: no JSON\n\n" if read == "broken" else chunk + "data: [DONE]\n\n")
    scheduling = scheduled(capacity="auto")
    with story.client(max_retries=1) as client:
        stream = client.chat.completions.create(**CHAT, stream=True)
        next(stream)
        if read == "first":
            stream.close()
        else:
            with pytest.raises(ValueError, match="Expecting") if read == "broken" else nullcontext():
                list(stream)
    scheduling.settled(1)
    (known,) = [each for each in loco_otel.snapshot().resources if each.capacity is not None]
    assert known.capacity == capacity


def test_call_takes_all_resources_that_match(tmp_path: Path, server: LlmServer, scheduled: Scheduled) -> None:
    (tmp_path / "loco.toml").write_text("""
        capacity = 2
        [[resources]]
        name = "gpu"
        capacity = 1
        [[resources]]
        name = "tier"
        model = "gpt-4o"
        capacity = 5
        [[resources]]
        name = "gpu-models"
        model = "gpt-*"
        capacity = 1
    """)
    scheduling = scheduled(config=str(tmp_path / "loco.toml"))
    with server.openai() as client, server.anthropic() as other, ThreadPoolExecutor(1) as pool:
        client.chat.completions.create(**CHAT)
        other.messages.create(**MESSAGE)
        resources = [event.ticket.request.resources for event in scheduling.seen.of(Submitted)]
        assert resources == [("gpu-models", "tier"), ("llm_api",)]
        with loco_otel.slot("holder", resources=["tier", "gpu-models"]):
            call = Context().run(pool.submit, client.chat.completions.create, **CHAT)
            scheduling.seen.wait_for(Waiting)
            assert standing("gpu-models").waiting == standing("tier").waiting == 1
            with loco_otel.slot("holder", resources="gpu", timeout=0):
                assert standing("gpu").active == 1
        call.result(PATIENCE)
    assert next(span.name for span in scheduling.spans("acquire")) == "acquire gpu-models+tier"
    with pytest.raises(
        ValueError, match=r"must be names from the settings \(llm_api, gpu, tier, gpu-models\), not 'tpu'"
    ):
        loco_otel.slot("a", resources=["tpu"])


def test_resources_change_in_a_running_program(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity="auto")
    with server.openai() as client, ThreadPoolExecutor(1) as pool:
        client.chat.completions.create(**CHAT)
        loco_otel.configure(resources=[{"name": "narrow", "provider": "openai", "capacity": 1}])
        with loco_otel.slot("holder", resources=["narrow"]):
            call = Context().run(pool.submit, client.chat.completions.create, **CHAT)
            scheduling.seen.wait_for(Waiting)
            loco_otel.configure(resources=[{"name": "narrow", "provider": "openai", "capacity": 2}])
            call.result(PATIENCE)
        loco_otel.configure(resources=[])
        client.chat.completions.create(**CHAT)
    resources = [event.ticket.request.resources for event in scheduling.seen.of(Granted)]
    own = resource("openai", server)
    assert resources == [(own,), ("narrow",), ("narrow",), (own,)]


def test_tokens_per_minute_delay_the_excess(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=4, tokens_per_minute=60_000, acquire_timeout=0)
    long = {**CHAT, "messages": [{"role": "user", "content": "sail " * 20_000}]}
    with server.openai() as client:
        client.chat.completions.create(**long)
        (spent,) = scheduling.seen.of(Spent)
        assert spent.spending.usage is not None
        used = spent.spending.usage.input_tokens + spent.spending.usage.output_tokens
        with pytest.raises(loco_otel.AcquireTimeoutError):
            for _ in range(100):
                client.chat.completions.create(**long)
    calls = len(scheduling.seen.of(Spent))
    assert calls * used <= 61_000 <= (calls + 1) * used + 1000, "as many as the bucket has room for"


def test_default_is_auto_without_waits(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled()
    barrier = threading.Barrier(8)
    with server.openai() as client, ThreadPoolExecutor(8) as pool:

        def call(_: int) -> None:
            barrier.wait(PATIENCE)
            client.chat.completions.create(**CHAT)

        list(pool.map(call, range(8)))
    assert scheduling.seen.of(Waiting) == []
    assert {event.ticket.request.resources for event in scheduling.seen.of(Submitted)} == {
        (resource("openai", server),)
    }
