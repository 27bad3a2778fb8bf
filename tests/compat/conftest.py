"""Programs as the seed's users wrote them, each on a loop of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from patience import PATIENCE


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a program to its end, and fail where it hangs."""

    def run_to_the_end(program: Coroutine[Any, Any, Any]) -> Any:
        async def bounded() -> Any:
            return await asyncio.wait_for(program, PATIENCE)

        return asyncio.run(bounded())

    return run_to_the_end


@pytest.fixture
def settle() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Run the loop until a condition holds."""

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 - there is no notification
                await asyncio.sleep(0)

    return until
