"""Calls of OpenAI's and Anthropic's clients whose cost is known before: prices, bounds, and many at once."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from sdk_calls import CHAT, MESSAGE, Sdk, now
from sdk_scheduling import Scheduling
from sdk_server import LlmServer

import loco_otel
from loco_otel import BudgetExceededError
from loco_otel.events import Spent
from loco_otel.money import BudgetStatus

PRICES = {
    "gpt-4o": {"input": 0, "output": 1000},
    "gpt-4o-mini": {"input": 0, "output": 10},
    "claude-sonnet-5": {"input": 0, "output": 1000},
}
"""In USD per million tokens: a token of an answer is a thousand micro-USD, or ten."""
BOUND = 64
"""Tokens that each call's answer may have, and that are reserved for it: more than it will have."""
TOKEN = 1000
CALLERS = 64


def bound_answer(sdk: Sdk) -> dict[str, Any]:
    return {"max_tokens": BOUND} if sdk.name == "openai" else {}  # Anthropic's call has it anyway


def ask(sdk: Sdk, client: Any, bound: int) -> Any:
    if sdk.name == "openai":
        return client.chat.completions.create(**CHAT, max_tokens=bound)
    return client.messages.create(**{**MESSAGE, "max_tokens": bound})


def read_budget() -> BudgetStatus:
    (standing,) = loco_otel.budgets()
    return standing


def compute_cost(scheduling: Scheduling) -> int:
    """What all calls cost, by their answers."""
    return sum((event.spending.usage or (0, 0))[1] * TOKEN for event in scheduling.seen.of(Spent))


def call_at_once(sdk: Sdk, server: LlmServer, callers: int, bound: int = BOUND) -> Counter[str]:
    """Make a number of calls at the same moment."""
    ends: Counter[str] = Counter()

    async def one(client: Any) -> None:
        try:
            await now(ask(sdk, client, bound))
        except BudgetExceededError:
            ends["refused"] += 1
        else:
            ends["answered"] += 1

    if sdk.is_async:

        async def all_of_them() -> None:
            async with sdk.client(server, max_retries=0) as client:
                await asyncio.gather(*(one(client) for _ in range(callers)))

        asyncio.run(all_of_them())
        return ends
    barrier = threading.Barrier(callers)
    with sdk.client(server, max_retries=0) as client:

        def work() -> None:
            barrier.wait()
            sdk.run(one(client))

        with ThreadPoolExecutor(callers) as threads:
            for done in [threads.submit(work) for _ in range(callers)]:
                done.result()
    return ends


@asynccontextmanager
async def open_client(sdk: Sdk, server: LlmServer) -> AsyncIterator[Any]:
    """Yield a client of either colour, closed at the end."""
    client = sdk.client(server, max_retries=0)
    try:
        yield client
    finally:
        await now(client.close())
