"""What calls are charged that end in other ways than with an answer, or whose answers have more than tokens."""

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path
from textwrap import dedent
from typing import Any

import anthropic
import openai
import pytest
from patience import PATIENCE
from sdk_calls import CHAT, MESSAGE, Sdk, each_async_sdk, each_sync_sdk
from sdk_http import client_of, http_of
from sdk_scheduling import Scheduled, Scheduling
from sdk_server import LlmServer

import loco_otel
from loco_otel import BudgetExceededError
from loco_otel.events import Granted, Rejected, Spent, Submitted
from loco_otel.money import BudgetStatus, Totals

PRICES = {"gpt-4o": {"input": 1000, "output": 1000}, "claude-sonnet-5": {"input": 1000, "output": 1000}}
"""In USD per million tokens: a token is a thousand micro-USD."""
TOKEN = 1000


def only() -> BudgetStatus:
    (standing,) = loco_otel.budgets()
    return standing


def spent_once() -> Totals:
    (totals,) = loco_otel.spend()
    return totals


def budgeted(scheduled: Scheduled, **settings: object) -> Scheduling:
    scheduling = scheduled(**{"capacity": "auto", **settings})
    loco_otel.configure(prices=PRICES, budgets="*=1")
    return scheduling


@each_sync_sdk
def test_abandoned_call_is_charged_its_prompt(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = budgeted(scheduled)
    server.script({"type": "delay", "seconds": 5.0, "times": 1})
    timeout = http_of(sdk.name).Timeout(PATIENCE, read=0.2)
    error = openai.APITimeoutError if sdk.name == "openai" else anthropic.APITimeoutError
    with sdk.client(server, max_retries=0, timeout=timeout) as client, pytest.raises(error):
        sdk.ask(client)
    scheduling.settled(1)
    totals = spent_once()
    assert (totals.calls, totals.estimated, totals.output_tokens) == (1, 1, 0)
    assert only().spent == totals.input_tokens * TOKEN > 0
    assert only().reserved == 0


@each_async_sdk
def test_call_cancelled_after_sending_is_charged_its_prompt(sdk: Sdk, scheduled: Scheduled) -> None:
    scheduling = budgeted(scheduled)
    library = http_of(sdk.name)

    async def main() -> None:
        sent = asyncio.Event()

        async def never_answer(_: Any) -> Any:
            sent.set()
            await asyncio.Event().wait()

        kind: Any = openai.AsyncOpenAI if sdk.name == "openai" else anthropic.AsyncAnthropic
        async with kind(api_key="k", http_client=client_of(library, never_answer, is_async=True)) as client:
            call = asyncio.create_task(sdk.ask(client))
            await sent.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(main())
    scheduling.settled(1)
    assert spent_once().estimated == 1
    assert only().spent == spent_once().input_tokens * TOKEN > 0
    assert only().reserved == 0


def test_call_cancelled_in_its_pause_is_charged_nothing(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = budgeted(scheduled)
    server.script({"type": "fail", "status": 429, "retry_after": 30, "times": 1})

    async def main() -> None:
        async with server.async_openai() as client:
            call = asyncio.create_task(client.chat.completions.create(**CHAT))
            await scheduling.seen.await_event(Granted)
            while scheduling.active():  # noqa: ASYNC110 - until the pause has begun
                await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(main())
    scheduling.settled(1)
    assert (only().spent, only().reserved) == (0, 0)
    assert loco_otel.spend() == ()


def test_service_tier_of_a_stream_is_charged(scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity="auto")
    loco_otel.configure(budgets="*=1")

    def answer(request: Any) -> Any:
        asked = json.loads(request.content)
        said = {"id": "1", "created": 1, "model": "gpt-5", "service_tier": asked["service_tier"]}
        usage = {"prompt_tokens": 1000, "completion_tokens": 1000, "total_tokens": 2000}
        if not asked.get("stream"):
            message = {"role": "assistant", "content": "deep"}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            return library.Response(
                200, json={**said, "object": "chat.completion", "choices": [choice], "usage": usage}
            )
        chunk = {**said, "object": "chat.completion.chunk"}
        choice = {"index": 0, "finish_reason": None, "delta": {"content": "deep"}}
        chunks = [{**chunk, "choices": [choice]}] * 3 + [{**chunk, "choices": [], "usage": usage}]
        lines = "".join(f"data: {json.dumps(each)}\n\n" for each in chunks) + "data: [DONE]\n\n"
        return library.Response(200, content=lines, headers={"content-type": "text/event-stream"})

    library = http_of("openai")
    with openai.OpenAI(api_key="k", http_client=client_of(library, answer)) as client:
        for tier in ("default", "priority", "flex"):
            ask: dict[str, Any] = {**CHAT, "model": "gpt-5", "service_tier": tier}
            client.chat.completions.create(**ask)
            list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    scheduling.settled(6)
    costs = [event.spending.usd for event in scheduling.seen.of(Spent)]
    assert costs[0::2] == costs[1::2]
    assert len(set(costs)) == 3


def test_broken_stream_keeps_its_cache_figures(scheduled: Scheduled) -> None:
    scheduling = budgeted(scheduled)
    loco_otel.configure(prices={"claude-*": {"input": 1000, "output": 0, "cache_read": 1}})
    library = http_of("anthropic")
    usage = {"input_tokens": 3, "cache_read_input_tokens": 500, "output_tokens": 1}
    message = {"id": "1", "type": "message", "role": "assistant", "model": "claude-sonnet-5", "content": []}
    events = [
        {"type": "message_start", "message": {**message, "stop_reason": None, "stop_sequence": None, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *[{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "deep"}}] * 3,
    ]
    lines = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)

    def answer(_: Any) -> Any:
        return library.Response(200, content=lines, headers={"content-type": "text/event-stream"})

    with anthropic.Anthropic(api_key="k", http_client=client_of(library, answer)) as client:
        with client.messages.create(**MESSAGE, stream=True) as stream:
            for event in stream:
                if event.type == "content_block_delta":
                    break
    scheduling.settled(1)
    assert spent_once().estimated == 1
    assert only().spent == 3 * TOKEN + 500


def test_call_past_max_hold_keeps_its_reservation(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = budgeted(scheduled, capacity=1, max_hold=0.2)
    loco_otel.configure(budgets=f"*={150 * TOKEN / 1_000_000}")
    server.script({"type": "delay", "seconds": 1.5, "times": 1})
    with server.openai(max_retries=0) as client:
        long = threading.Thread(target=client.chat.completions.create, kwargs={**CHAT, "max_tokens": 100})
        long.start()
        scheduling.seen.wait_for(Granted)
        while scheduling.active():
            scheduling.seen.wait_for(Submitted)  # until its slot is taken back
        with pytest.raises(BudgetExceededError, match="reserved"):
            client.chat.completions.create(**CHAT, max_tokens=100)
        long.join(PATIENCE)
    assert only().spent == spent_once().usd <= only().limit
    assert only().reserved == 0


def test_callback_may_change_the_budgets(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = budgeted(scheduled, capacity=1)
    told: list[object] = []

    def raise_the_limit(event: object) -> None:
        told.append(event)
        loco_otel.configure(budgets="*=2")

    def wait_in_vain() -> None:
        with server.openai() as client, pytest.raises(BudgetExceededError):
            client.chat.completions.create(**CHAT)

    leave = loco_otel.on_budget(raise_the_limit)
    try:
        with loco_otel.slot("holder"):
            waiting = threading.Thread(target=wait_in_vain)
            waiting.start()
            while not scheduling.waiting():
                scheduling.seen.wait_for(Submitted, 2)
            lowering = threading.Thread(target=loco_otel.configure, kwargs={"budgets": "*=0.001"}, daemon=True)
            lowering.start()
            lowering.join(PATIENCE)
            assert not lowering.is_alive()
            waiting.join(PATIENCE)
    finally:
        leave()
    assert len(told) == len(scheduling.seen.of(Rejected)) == 1
    assert only().limit == 2_000_000


@pytest.mark.parametrize("with_file", [False, True])
def test_call_is_paid_by_its_process_and_not_by_a_fork(with_file: bool, server: LlmServer, tmp_path: Path) -> None:
    # In a process of its own, which has no threads that a fork would be without.
    program = f"""
        import os, sys, loco_otel
        from openai import OpenAI
        loco_otel.install()
        loco_otel.configure(prices={PRICES!r}, budgets="*=1", ledger={str(tmp_path / "l.db") if with_file else None!r})
        client = OpenAI(api_key="k", base_url={server.url("openai")!r})
        ask = dict(model="gpt-4o", max_tokens=64, messages=[dict(role="user", content="hi there")])
        usage = None
        with client.chat.completions.create(**ask, stream=True, stream_options=dict(include_usage=True)) as stream:
            for read, chunk in enumerate(stream):
                if read == 1:
                    child = os.fork()
                    if not child:
                        sys.exit(0)  # leaves the body
                    os.waitpid(child, 0)
                usage = chunk.usage or usage
        (standing,), (totals,) = loco_otel.budgets(), loco_otel.spend()
        assert totals.calls == 1 and totals.estimated == 0, totals
        assert standing.spent == usage.total_tokens * {TOKEN}, (standing, usage)
        assert standing.reserved == 0
    """
    subprocess.run([sys.executable, "-c", dedent(program)], check=True, timeout=PATIENCE)
