"""Budgets of patched calls in a ledger on a server: callers on an event loop do not block it while they wait."""

import asyncio
from typing import Any

import pytest
from redis_server import RedisServer
from sdk_calls import CHAT, Sdk, each_sdk, now
from sdk_scheduling import Scheduled, Scheduling
from sdk_server import LlmServer
from shared_engine import wait_until

import loco_otel
from loco_otel import BudgetExceededError, LedgerError
from loco_otel._runtime import process
from loco_otel.events import Spent
from loco_otel.money import MICRO

PRICES = {"gpt-4o": {"input": 0, "output": 1000}, "claude-sonnet-5": {"input": 0, "output": 1000}}
BOUND = 64
TOKEN = 1000


@pytest.fixture
def priced(scheduled: Scheduled, own_server: RedisServer) -> Any:
    """Patch the SDKs under budgets in a ledger on the server; `**settings` as environment variables."""

    def schedule(budgets: str, **settings: Any) -> Scheduling:
        scheduling = scheduled(**{"ledger": own_server.url, "budgets": budgets, "engine_timeout": 10, **settings})
        loco_otel.configure(prices=PRICES)
        return scheduling

    return schedule


def read_amounts() -> tuple[int, int]:
    (status,) = loco_otel.budgets()
    return status.spent, status.reserved


def cost(scheduling: Scheduling) -> int:
    return sum(event.spending.usd or 0 for event in scheduling.seen.of(Spent))


@each_sdk
def test_calls_are_charged_on_the_server(sdk: Sdk, server: LlmServer, priced: Any) -> None:
    scheduling = priced("*=20", capacity=2)

    async def call_all(client: Any) -> None:
        await asyncio.gather(*(now(sdk.ask(client)) for _ in range(4)))

    if sdk.is_async:

        async def call() -> None:
            async with sdk.client(server) as client:
                await call_all(client)

        asyncio.run(call())
    else:
        with sdk.client(server) as client:
            for _ in range(4):
                sdk.ask(client)
    scheduling.settled(4)
    assert read_amounts() == (cost(scheduling), 0)
    assert cost(scheduling) > 0


def test_concurrent_calls_of_a_loop_never_overspend(server: LlmServer, priced: Any) -> None:
    limit = 5 * BOUND * TOKEN
    scheduling = priced(f"*={limit / MICRO}")

    async def call(client: Any) -> bool:
        try:
            await client.chat.completions.create(**CHAT, max_tokens=BOUND)
        except BudgetExceededError:
            return False
        return True

    async def call_at_once() -> int:
        async with server.async_openai(max_retries=0) as client:
            return sum(await asyncio.gather(*(call(client) for _ in range(32))))

    answered = asyncio.run(call_at_once())
    assert 5 <= answered == len(server.requests())
    assert read_amounts() == (cost(scheduling), 0)
    assert cost(scheduling) <= limit


def test_event_loop_runs_while_the_ledger_is_slow(server: LlmServer, priced: Any, own_server: RedisServer) -> None:
    scheduling = priced("*=20")
    wait_until(can_use_ledger)

    async def call() -> None:
        async with server.async_openai() as client:
            own_server.freeze()
            task = asyncio.create_task(client.chat.completions.create(**CHAT, max_tokens=BOUND))
            await hold_slot(scheduling)
            assert server.requests() == []
            own_server.thaw()
            await task

    # A loop that is blocked could not thaw the server.
    asyncio.run(call())
    assert read_amounts() == (cost(scheduling), 0)


async def hold_slot(scheduling: Scheduling) -> None:
    """Wait until a call has its slot, and waits for its reservation."""
    while not scheduling.active():  # noqa: ASYNC110 - it makes no event
        await asyncio.sleep(0)


def can_use_ledger() -> bool:
    try:
        loco_otel.budgets()
        process.get_runtime().budgets.ledger_client.ledger.renew_reservations([], 0.0)
    except LedgerError:
        return False
    return True


def test_call_cancelled_while_it_reserves_keeps_nothing(
    server: LlmServer, priced: Any, own_server: RedisServer
) -> None:
    scheduling = priced("*=20")
    wait_until(can_use_ledger)

    async def call() -> None:
        async with server.async_openai() as client:
            own_server.freeze()
            task = asyncio.create_task(client.chat.completions.create(**CHAT, max_tokens=BOUND))
            await hold_slot(scheduling)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            own_server.thaw()

    asyncio.run(call())
    wait_until(lambda: not process.get_runtime().budgets.ledger_client._in_flight)
    wait_until(lambda: read_amounts() == (0, 0))
    assert scheduling.active() == 0
    assert server.requests() == []


@pytest.mark.parametrize("on_error", ["closed", "open"])
def test_server_that_is_away_refuses_or_admits(
    on_error: str, server: LlmServer, priced: Any, own_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    scheduling = priced("*=20", engine_timeout=0.25, ledger_on_error=on_error)
    wait_until(can_use_ledger)
    own_server.kill()

    async def call() -> None:
        async with server.async_openai(max_retries=0) as client:
            for _ in range(3):
                if on_error == "closed":
                    with pytest.raises(LedgerError):
                        await client.chat.completions.create(**CHAT, max_tokens=BOUND)
                else:
                    await client.chat.completions.create(**CHAT, max_tokens=BOUND)

    asyncio.run(call())
    assert len(server.requests()) == (3 if on_error == "open" else 0)
    own_server.start()
    wait_until(lambda: can_use_ledger() and read_amounts() == (cost(scheduling), 0))
    assert (cost(scheduling) > 0) is (on_error == "open")
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert sum("does not answer" in it for it in warnings) == 1
    assert sum("allowed without a budget check" in it for it in warnings) == (on_error == "open")
