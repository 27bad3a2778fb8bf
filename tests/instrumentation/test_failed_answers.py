"""A call that the provider breaks off, refuses or does not answer ends with its error, and its slot comes back."""

import json
from typing import Any

import anthropic
import openai
import pytest
from call_endings import STALL, check_end, list_arguments, name_error
from patience import PATIENCE
from sdk_calls import Sdk, each, each_sdk, now, opened
from sdk_http import client_of, http_of
from sdk_scheduling import Scheduled
from sdk_server import KEY, LlmServer


@each_sdk
@pytest.mark.parametrize("how", ["read", "helper", "raw"])
def test_dropped_connection_is_an_error(how: str, sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script({"type": "stream_fault", "kind": "disconnect", "after_chunks": 2})
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            if how == "raw":
                raw = await now(sdk.raw(client).create(**list_arguments(sdk), stream=True))
                manager = await now(raw.parse())
            else:
                manager = sdk.streaming(client) if how == "helper" else await now(sdk.stream(client))
            async with opened(manager) as stream:
                with pytest.raises((openai.APIConnectionError, http_of(sdk.name).RemoteProtocolError)) as raised:
                    async for _ in each(stream):
                        pass
            errors.append(raised.value)

    errors: list[BaseException] = []
    sdk.run(main())
    check_end(scheduling, name_error(errors[0]))


@each_sdk
def test_truncated_stream_is_estimated(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    """No SDK takes it for an error."""
    server.script({"type": "stream_fault", "kind": "truncate", "after_chunks": 3})
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client, opened(await now(sdk.stream(client))) as stream:
            async for _ in each(stream):
                pass

    sdk.run(main())
    check_end(scheduling)


@each_sdk
def test_chunk_that_is_no_json_is_an_error(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script({"type": "stream_fault", "kind": "malformed", "after_chunks": 1})
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client, opened(await now(sdk.stream(client))) as stream:
            with pytest.raises(json.JSONDecodeError):
                async for _ in each(stream):
                    pass

    sdk.run(main())
    check_end(scheduling, "json.decoder.JSONDecodeError")


@each_sdk
@pytest.mark.parametrize(
    ("status", "error"), [(400, "BadRequestError"), (404, "NotFoundError"), (500, "InternalServerError")]
)
@pytest.mark.parametrize("streamed", [False, True])
def test_refused_call_spends_nothing(
    status: int, error: str, streamed: bool, sdk: Sdk, server: LlmServer, scheduled: Scheduled
) -> None:
    server.script({"type": "fail", "status": status})
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server, max_retries=0)) as client:
            with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)) as raised:
                await now(sdk.ask(client, stream=streamed))
            assert type(raised.value).__name__ == error

    sdk.run(main())
    check_end(scheduling, f"{sdk.name}.{error}", spent=False)


def test_answer_that_is_no_json_is_an_error(scheduled: Scheduled) -> None:
    library = http_of("openai")

    def broken(_: Any) -> Any:
        return library.Response(200, content=b'{"id": ', headers={"content-type": "application/json"})

    scheduling = scheduled(capacity=1)
    http = client_of(library, broken)
    with openai.OpenAI(api_key=KEY, http_client=http) as client, pytest.raises(json.JSONDecodeError):
        client.embeddings.create(model="text-embedding-3-small", input="hi")
    check_end(scheduling, "json.decoder.JSONDecodeError", spent=False)


@each_sdk
def test_unreachable_provider_is_an_error(sdk: Sdk, scheduled: Scheduled, server: LlmServer) -> None:
    scheduling = scheduled(capacity=1)
    library = http_of(sdk.name)

    def refuse(request: Any) -> Any:
        raise library.ConnectError("refused", request=request)

    http = client_of(library, refuse, is_async=sdk.is_async)

    async def main() -> None:
        async with opened(sdk.client(server, http_client=http, max_retries=0)) as client:
            with pytest.raises((openai.APIConnectionError, anthropic.APIConnectionError)):
                await now(sdk.ask(client))

    sdk.run(main())
    check_end(scheduling, f"{sdk.name}.APIConnectionError", spent=False)


@each_sdk
def test_read_timeout_ends_the_call(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script({"type": "stream_fault", "kind": "stall", "after_chunks": 2, "stall_seconds": STALL})
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        library = http_of(sdk.name)
        timeout = library.Timeout(PATIENCE, read=2.0)
        async with opened(sdk.client(server, timeout=timeout)) as client:
            async with opened(await now(sdk.stream(client))) as stream:
                with pytest.raises((openai.APITimeoutError, library.ReadTimeout)) as raised:
                    async for _ in each(stream):
                        pass
            errors.append(raised.value)

    errors: list[BaseException] = []
    sdk.run(main())
    check_end(scheduling, name_error(errors[0]))
