"""A call within a slot, or of an SDK over an SDK, is scheduled once."""

import asyncio
from typing import Any

from grant_reasons import FREE, REENTRANT, list_reasons
from sdk_calls import Sdk, each_async_sdk, each_sdk, each_sync_sdk, now, opened
from sdk_scheduling import Scheduled
from sdk_server import LlmServer

import loco_otel
from loco_otel.events import Submitted


@each_sdk
def test_call_inside_a_slot_is_not_scheduled_again(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            with loco_otel.slot("analyst"):
                await now(sdk.ask(client))
                async with opened(await now(sdk.stream(client))) as stream:
                    await now(stream.__anext__() if sdk.is_async else next(stream))
            await now(sdk.ask(client))

    sdk.run(main())
    scheduling.settled(2)
    assert len(server.requests()) == 3
    assert [event.ticket.request.provider for event in scheduling.seen.of(Submitted)] == [None, sdk.name]


@each_async_sdk
def test_first_child_of_a_slot_is_not_scheduled_again(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with sdk.client(server) as client, loco_otel.slot("analyst"):
            await asyncio.gather(sdk.ask(client), sdk.ask(client))

    sdk.run(main())
    scheduling.settled(2)
    assert list_reasons(scheduling) == [FREE, REENTRANT], "the slot, and the call beside the one that runs under it"
    assert len(server.requests()) == 2


@each_sync_sdk
def test_sdk_over_an_sdk_is_scheduled_once(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    """As LiteLLM upon OpenAI's: what is patched calls what is patched."""
    scheduling = scheduled(capacity=1)
    with sdk.client(server) as inner, sdk.client(server) as outer:
        send = outer._prepare_options

        def prepare(options: Any) -> Any:
            sdk.ask(inner)
            return send(options)

        outer._prepare_options = prepare
        sdk.ask(outer)
    scheduling.settled(1)
    assert len(server.requests()) == 2
    assert list_reasons(scheduling) == [FREE]


@each_async_sdk
def test_async_sdk_over_an_sdk_is_scheduled_once(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with sdk.client(server) as inner, sdk.client(server) as outer:
            send = outer._prepare_options

            async def prepare(options: Any) -> Any:
                await asyncio.create_task(ask(inner))
                return await send(options)

            outer._prepare_options = prepare
            await sdk.ask(outer)

    async def ask(client: Any) -> None:
        await sdk.ask(client)

    sdk.run(main())
    scheduling.settled(1)
    assert len(server.requests()) == 2
    assert list_reasons(scheduling) == [FREE]
