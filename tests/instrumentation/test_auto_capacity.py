"""`LOCO_CAPACITY=auto`, and resources from the settings: real SDKs against servers that push back."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from sdk_busy import BusyServer
from sdk_calls import CHAT, MESSAGE, Sdk, each_sdk, now, opened
from sdk_http import client_of, http_of
from sdk_scheduling import SOON, Scheduled
from sdk_server import KEY, LlmServer

import loco_otel
from loco_otel.events import Granted, ResourceStanding, Spent, Submitted, Throttled, Waiting

OPENAI, ANTHROPIC = "openai/127.0.0.1", "anthropic/127.0.0.1"


def standing(name: str) -> ResourceStanding:
    return next(resource for resource in loco_otel.snapshot().resources if resource.resource == name)


def test_a_provider_that_takes_four_at_a_time_refuses_little(scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity="auto")
    with BusyServer(4, seconds=0.02, retry_after=0.05) as server:
        client = openai.OpenAI(api_key=KEY, base_url=server.url, max_retries=20)
        with client, ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(lambda _: client.chat.completions.create(**CHAT), range(400)))
        seen = server.seen()
    assert len(answers) == seen["served"] == 400
    # The first are sent before anything is known: at most one refusal each. Left alone they are refused again and
    # again, more often than they are served.
    assert seen["refused"] <= 24 + 0.25 * 400
    assert standing(OPENAI).capacity in range(1, 8)
    scheduling.settled(400)


def test_one_providers_refusals_slow_no_other(server: LlmServer, scheduled: Scheduled) -> None:
    scheduled(capacity="auto")
    with server.openai() as client, server.anthropic() as other:
        client.chat.completions.create(**CHAT)
        other.messages.create(**MESSAGE)
        assert (standing(OPENAI).capacity, standing(ANTHROPIC).capacity) == (None, None)
        server.script({"type": "fail", "status": 429, "retry_after": 0.05, "times": 1})
        client.chat.completions.create(**CHAT)
        other.messages.create(**MESSAGE)
    assert (standing(OPENAI).capacity, standing(ANTHROPIC).capacity) == (2, None)


def test_nothing_goes_before_the_time_that_the_provider_names(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity="auto")
    server.script({"type": "fail", "status": 429, "retry_after": 0.5, "times": 1})
    with server.openai(max_retries=2) as client, ThreadPoolExecutor(4) as pool:
        refused = pool.submit(client.chat.completions.create, **CHAT)
        scheduling.seen.wait_for(Throttled)
        others = [pool.submit(client.chat.completions.create, **CHAT) for _ in range(3)]
        for future in (refused, *others):
            future.result(SOON)
    first, *following = server.requests()
    assert (first.status, len(following)) == (429, 4)
    assert all(request.started_at >= first.ended_at + 0.45 for request in following)


@each_sdk
def test_an_answer_that_does_not_come_in_time_is_a_push_back(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity="auto")
    server.script({"type": "delay", "seconds": 5.0, "times": 1})

    async def main() -> None:
        async with opened(sdk.client(server, timeout=0.3, max_retries=1)) as client:
            await now(sdk.ask(client))

    sdk.run(main())
    (throttled,) = scheduling.seen.of(Throttled)
    assert (throttled.status, throttled.retry_after) == (0, None)
    assert standing(f"{sdk.name}/127.0.0.1").capacity == 2, "one, and one more after the success that followed"


def test_what_an_answer_says_is_left_is_honoured_once_there_was_a_refusal(scheduled: Scheduled) -> None:
    library = http_of("openai")
    left = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2m30s"}
    answers = [
        library.Response(429, headers={"retry-after-ms": "1"}, json={}),
        library.Response(
            200, headers={"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "1m"}, json={}
        ),
        library.Response(200, headers=left, json={}),
    ]
    scheduling = scheduled(capacity="auto", acquire_timeout=0)
    with openai.OpenAI(api_key=KEY, http_client=client_of(library, lambda _: answers.pop(0)), max_retries=1) as client:
        client.chat.completions.create(**CHAT)
        client.chat.completions.create(**CHAT)
        with pytest.raises(loco_otel.AcquireTimeoutError):
            client.chat.completions.create(**CHAT)
    assert answers == []
    scheduling.settled(3)


def test_a_call_needs_all_resources_that_match(tmp_path: Path, server: LlmServer, scheduled: Scheduled) -> None:
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
            call = pool.submit(client.chat.completions.create, **CHAT)
            scheduling.seen.wait_for(Waiting)
            assert standing("gpu-models").waiting == standing("tier").waiting == 1
            with loco_otel.slot("holder", resources="gpu", timeout=0):
                assert standing("gpu").active == 1
        call.result(SOON)
    assert next(span.name for span in scheduling.spans("acquire")) == "acquire gpu-models+tier"
    with pytest.raises(ValueError, match="resources must be of llm_api, gpu, tier, gpu-models, not 'tpu'"):
        loco_otel.slot("a", resources=["tpu"])


def test_resources_change_in_a_running_program(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity="auto")
    with server.openai() as client, ThreadPoolExecutor(1) as pool:
        client.chat.completions.create(**CHAT)
        loco_otel.configure(resources=[{"name": "narrow", "provider": "openai", "capacity": 1}])
        with loco_otel.slot("holder", resources=["narrow"]):
            call = pool.submit(client.chat.completions.create, **CHAT)
            scheduling.seen.wait_for(Waiting)
            loco_otel.configure(resources=[{"name": "narrow", "provider": "openai", "capacity": 2}])
            call.result(SOON)
        loco_otel.configure(resources=[])
        client.chat.completions.create(**CHAT)
    resources = [event.ticket.request.resources for event in scheduling.seen.of(Granted)]
    assert resources == [(OPENAI,), ("narrow",), ("narrow",), (OPENAI,)]


def test_tokens_in_a_minute_hold_back_what_would_exceed_them(server: LlmServer, scheduled: Scheduled) -> None:
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


def test_the_default_is_auto_and_nobody_waits(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled()
    barrier = threading.Barrier(8)
    with server.openai() as client, ThreadPoolExecutor(8) as pool:

        def call(_: int) -> None:
            barrier.wait(SOON)
            client.chat.completions.create(**CHAT)

        list(pool.map(call, range(8)))
    assert scheduling.seen.of(Waiting) == []
    assert {event.ticket.request.resources for event in scheduling.seen.of(Submitted)} == {(OPENAI,)}
