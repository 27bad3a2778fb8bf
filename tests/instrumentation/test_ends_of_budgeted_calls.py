"""What a call is charged that breaks, fails, is dropped or retried, or has a slot of the program's own."""

import asyncio
import contextvars
import gc
from typing import Any

import pytest
from budgeted_calls import (
    BOUND,
    PRICES,
    TOKEN,
    bound_answer,
    compute_cost,
    open_client,
    read_budget,
)
from sdk_calls import CHAT, Sdk, each, each_sdk, now
from sdk_scheduling import Scheduled
from sdk_server import LlmServer

import loco_otel
from loco_otel import BudgetExceededError
from loco_otel.events import Spent
from loco_otel.money import MICRO


@each_sdk
def test_broken_stream_is_charged_by_its_chunks(sdk: Sdk, server: LlmServer, priced: Any) -> None:
    scheduling = priced(budgets="*=1")

    async def main() -> None:
        async with open_client(sdk, server) as client:
            stream = await now(sdk.stream(client, **bound_answer(sdk)))
            read = 0
            async for _ in each(stream):
                read += 1
                if read == 4:
                    break
            await now(stream.close())

    sdk.run(main())
    scheduling.settled(1)
    (totals,) = loco_otel.spend()
    assert (totals.calls, totals.estimated) == (1, 1)
    standing = read_budget()
    assert 0 < standing.spent == totals.usd < BOUND * TOKEN
    assert standing.reserved == 0


@each_sdk
def test_failed_call_costs_and_holds_nothing(sdk: Sdk, server: LlmServer, priced: Any) -> None:
    scheduling = priced(budgets="*=1")
    server.script({"type": "fail", "status": 500, "times": 1})

    async def main() -> None:
        async with open_client(sdk, server) as client:
            with pytest.raises(Exception, match="500"):
                await now(sdk.ask(client, **bound_answer(sdk)))

    sdk.run(main())
    scheduling.settled(1)
    assert (read_budget().spent, read_budget().reserved) == (0, 0)
    assert loco_otel.spend() == ()


def test_retried_call_reserves_once(server: LlmServer, priced: Any) -> None:
    scheduling = priced(1, budgets=f"*={BOUND * TOKEN / MICRO}")
    server.script({"type": "fail", "status": 429, "retry_after": 0.01, "times": 2})
    with server.openai(max_retries=2) as client:
        client.chat.completions.create(**CHAT, max_tokens=BOUND)
    scheduling.settled(1)
    assert len(server.requests()) == 3
    assert read_budget().spent == compute_cost(scheduling)
    assert read_budget().reserved == 0


def test_dropped_stream_is_charged_and_its_reservation_ends(server: LlmServer, priced: Any) -> None:
    scheduling = priced(budgets="*=1")
    with server.openai() as client:
        stream = iter(client.chat.completions.create(**CHAT, max_tokens=BOUND, stream=True))
        for _ in range(4):
            next(stream)
        assert read_budget().reserved == BOUND * TOKEN
        del stream
        gc.collect()
    scheduling.settled(1)
    assert read_budget().spent > 0
    assert read_budget().reserved == 0


def test_call_reclaimed_by_max_hold_is_charged_when_it_ends(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(max_hold=0.2, capacity=1)
    loco_otel.configure(prices=PRICES, budgets="*=1")
    server.script({"type": "delay", "seconds": 0.8, "times": 1})
    with server.openai(max_retries=0) as client:
        client.chat.completions.create(**CHAT, max_tokens=BOUND)
    (totals,) = loco_otel.spend()
    assert read_budget().spent == totals.usd > 0
    assert read_budget().reserved == 0
    assert scheduling.active() == 0


def test_call_dropped_during_its_wait_has_spent_nothing(server: LlmServer, priced: Any) -> None:
    scheduling = priced(1, budgets="*=1")
    loop = asyncio.new_event_loop()
    client = server.async_openai()

    async def wait() -> None:
        with loco_otel.slot("holder"):
            waiting = contextvars.Context().run(asyncio.create_task, client.chat.completions.create(**CHAT))
            while not scheduling.waiting():  # noqa: ASYNC110 - no event reports it
                await asyncio.sleep(0)
            # As the garbage collector closes a coroutine whose loop has ended.
            waiting.get_coro().close()

    loop.run_until_complete(wait())
    loop.run_until_complete(client.close())
    asyncio.gather(*asyncio.all_tasks(loop)).cancel() if asyncio.all_tasks(loop) else None
    loop.close()
    gc.collect()
    scheduling.settled(2)
    assert server.requests() == []
    assert (read_budget().spent, read_budget().reserved) == (0, 0)
    assert loco_otel.spend() == ()


@each_sdk
@pytest.mark.parametrize("streamed", [False, True])
def test_calls_in_a_slot_of_the_program_are_charged(streamed: bool, sdk: Sdk, server: LlmServer, priced: Any) -> None:
    scheduling = priced(1, budgets=f"*={BOUND * TOKEN / MICRO}")

    async def main() -> None:
        async with open_client(sdk, server) as client:
            with loco_otel.slot("mine"):
                answer = await now(sdk.ask(client, stream=streamed, **bound_answer(sdk)))
                if streamed:
                    async for _ in each(answer):
                        pass
                with pytest.raises(BudgetExceededError):
                    await now(sdk.ask(client, **bound_answer(sdk)))

    sdk.run(main())
    scheduling.runtime.engine.flush()
    assert len(server.requests()) == 1
    (spent,) = scheduling.seen.of(Spent)
    assert read_budget().spent == spent.spending.usd > 0
    assert read_budget().reserved == 0
    # It waited for nothing, so there is no acquire span of it, but for the one that was refused.
    outcomes = [span.attributes["loco.outcome"] for span in scheduling.spans("acquire")]
    assert sorted(map(str, outcomes)) == ["budget", "granted"]
    if sdk.name == "openai":  # Anthropic's makes its own
        (inference,) = scheduling.spans("chat")
        assert inference.attributes is not None
        assert inference.attributes["gen_ai.response.model"] == "gpt-4o"
    assert scheduling.active() == 0


def test_stream_in_a_dropped_slot_is_charged(server: LlmServer, priced: Any) -> None:
    scheduling = priced(1, budgets="*=1")
    with server.openai() as client, loco_otel.slot("mine"):
        stream = iter(client.chat.completions.create(**CHAT, max_tokens=BOUND, stream=True))
        for _ in range(4):
            next(stream)
        del stream
        gc.collect()
    scheduling.seen.wait_for(Spent)  # the engine ends a dropped call when it has the lock
    assert read_budget().spent > 0
    assert read_budget().reserved == 0
    assert len(scheduling.seen.of(Spent)) == 1
