"""Slots that FastAPI's sync dependencies hold around an endpoint that makes calls."""

import asyncio
from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from patience import PATIENCE
from sdk_calls import SDKS, Sdk, now
from sdk_scheduling import Scheduled
from sdk_server import LlmServer

from loco_otel import slot


def hold_slot() -> Iterator[None]:
    with slot("endpoint"):
        yield


def build_app(sdk: Sdk, client: Any) -> FastAPI:
    app = FastAPI()

    if sdk.is_async:

        @app.get("/")
        async def answer(_: Annotated[None, Depends(hold_slot)]) -> str:
            await now(sdk.ask(client))
            return "done"
    else:

        @app.get("/")
        def answer(_: Annotated[None, Depends(hold_slot)]) -> str:
            sdk.ask(client)
            return "done"

    return app


@pytest.mark.parametrize("sdk", SDKS[:2], ids=str)
@pytest.mark.parametrize("capacity", [1, 3])
def test_dependency_that_holds_a_slot_does_not_deadlock(
    sdk: Sdk, capacity: int, server: LlmServer, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=capacity)

    async def main() -> list[int]:
        app = build_app(sdk, sdk.client(server))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as browser:
            answers = await asyncio.wait_for(asyncio.gather(*[browser.get("/") for _ in range(capacity)]), PATIENCE)
        return [answer.status_code for answer in answers]

    assert asyncio.run(main()) == [200] * capacity
    scheduling.settled(2 * capacity)
    assert len(server.requests()) == capacity
