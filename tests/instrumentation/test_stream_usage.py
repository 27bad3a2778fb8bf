"""`LOCO_STREAM_USAGE`: streams report their tokens to the scheduler, and the program reads what it would have read."""

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import openai
import pytest
from sdk_calls import CHAT, MESSAGE, PROMPT, each, finished, now, opened
from sdk_http import client_of, http_of
from sdk_scheduling import Scheduled
from sdk_server import KEY, LlmServer
from sdk_versions import since

import loco_otel
from loco_otel.events import Spent, Usage

ASKED = {"include_usage": True}
HTTP = http_of("openai")

Read = Callable[[Any], Coroutine[Any, Any, list[Any]]]
Play = Callable[[Read], list[Any]]


def told(item: Any) -> Any:
    """Return all fields of a chunk, unset ones included, but for what differs from call to call."""
    return item.model_copy(update={"id": "", "created": 0}).model_dump(exclude_unset=True)


async def chunks(stream: Any) -> list[Any]:
    return [type(stream), *[told(chunk) async for chunk in each(stream)]]


async def created(client: Any) -> list[Any]:
    return await chunks(await now(client.chat.completions.create(**CHAT, stream=True)))


async def created_with_other_wishes(client: Any) -> list[Any]:
    wishes = {"include_obfuscation": False}
    return await chunks(await now(client.chat.completions.create(**CHAT, stream=True, stream_options=wishes)))


async def created_with_other_wishes_in_extra_body(client: Any) -> list[Any]:
    extra = {"stream_options": {"include_obfuscation": False}}
    return await chunks(await now(client.chat.completions.create(**CHAT, stream=True, extra_body=extra)))


async def read_in_with(client: Any) -> list[Any]:
    async with opened(await now(client.chat.completions.create(**CHAT, stream=True))) as stream:
        return await chunks(stream)


async def read_one_by_one(client: Any) -> list[Any]:
    stream = await now(client.chat.completions.create(**CHAT, stream=True))
    items: list[Any] = []
    try:
        while True:
            items.append(told(await anext(stream) if hasattr(stream, "__anext__") else next(stream)))
    except (StopIteration, StopAsyncIteration):
        return items


async def helper(client: Any) -> list[Any]:
    async with opened(client.chat.completions.stream(**CHAT)) as stream:
        items = [event.type async for event in each(stream)]
        return [*items, told(await now(stream.get_final_completion()))]


async def raw_parsed(client: Any) -> list[Any]:
    raw = await now(client.chat.completions.with_raw_response.create(**CHAT, stream=True))
    return [type(raw), *await chunks(await now(raw.parse()))]


async def streaming_response_parsed(client: Any) -> list[Any]:
    async with opened(client.chat.completions.with_streaming_response.create(**CHAT, stream=True)) as raw:
        return [type(raw), *await chunks(await now(raw.parse()))]


READS = [
    created,
    created_with_other_wishes,
    created_with_other_wishes_in_extra_body,
    read_in_with,
    read_one_by_one,
    pytest.param(helper, marks=since("openai", "1.92")),
    raw_parsed,
    streaming_response_parsed,
]
COLOURS = ["sync", "async"]


@pytest.fixture(params=COLOURS)
def play(request: pytest.FixtureRequest, server: LlmServer) -> Play:
    """Run a program with a client of either colour."""

    def sync(read: Read) -> list[Any]:
        with server.openai(max_retries=2) as client:
            return finished(read(client))

    def coro(read: Read) -> list[Any]:
        async def main() -> list[Any]:
            async with server.async_openai(max_retries=2) as client:
                return await read(client)

        return asyncio.run(main())

    return sync if request.param == "sync" else coro


def real_usage(server: LlmServer) -> Usage:
    """Return what the server counts for the one prompt of these tests."""
    with server.openai() as client:
        usage = client.chat.completions.create(**CHAT).usage
    assert usage is not None
    return Usage(usage.prompt_tokens, usage.completion_tokens)


@pytest.mark.parametrize("read", READS)
def test_program_reads_the_same_and_tokens_are_counted(
    read: Read, play: Play, server: LlmServer, scheduled: Scheduled
) -> None:
    alone = play(read)
    usage = real_usage(server)
    server.reset()

    scheduling = scheduled(stream_usage=True)
    assert play(read) == alone

    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage == usage
    (request,) = server.requests()
    assert request.body["stream_options"].items() >= ASKED.items()
    assert ("include_obfuscation" in request.body["stream_options"]) == ("other_wishes" in read.__name__)


def test_stream_usage_is_off_until_enabled_at_run_time(play: Play, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled()
    play(created)
    loco_otel.configure(stream_usage=True)
    play(created)

    scheduling.settled(2)
    first, second = scheduling.seen.of(Spent)
    assert first.spending.usage is not None
    assert first.spending.usage.estimated
    assert second.spending.usage is not None
    assert not second.spending.usage.estimated
    assert ["stream_options" in request.body for request in server.requests()] == [False, True]


async def asked_itself(client: Any) -> list[Any]:
    return await chunks(await now(client.chat.completions.create(**CHAT, stream=True, stream_options=ASKED)))


async def asked_in_extra_body(client: Any) -> list[Any]:
    extra = {"stream_options": ASKED}
    return await chunks(await now(client.chat.completions.create(**CHAT, stream=True, extra_body=extra)))


async def declined(client: Any) -> list[Any]:
    wishes = {"include_usage": False}
    return await chunks(await now(client.chat.completions.create(**CHAT, stream=True, stream_options=wishes)))


async def whole(client: Any) -> list[Any]:
    return [type(await now(client.chat.completions.create(**CHAT)))]


async def response_events(client: Any) -> list[Any]:
    stream = await now(client.responses.create(model="gpt-4o", input=PROMPT, stream=True))
    return [event.type async for event in each(stream)]


@pytest.mark.parametrize("read", [asked_itself, asked_in_extra_body, declined, whole, response_events])
def test_request_with_its_own_choice_is_unchanged(
    read: Read, play: Play, server: LlmServer, scheduled: Scheduled
) -> None:
    alone = play(read)
    (request,) = server.requests()
    server.reset()

    scheduled(stream_usage=True)
    assert play(read) == alone

    assert [it.body for it in server.requests()] == [request.body]


def test_anthropic_streams_report_usage_anyway(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(stream_usage=True)
    with server.anthropic() as client:
        assert list(client.messages.create(**MESSAGE, stream=True))

    scheduling.settled(1)
    (request,) = server.requests()
    assert "stream_options" not in request.body


def test_retry_requests_usage_again(play: Play, server: LlmServer, scheduled: Scheduled) -> None:
    alone = play(created)
    server.reset()
    server.script({"type": "fail", "status": 500, "times": 1})

    scheduling = scheduled(stream_usage=True)
    assert play(created) == alone

    scheduling.settled(1)
    assert [(it.status, it.body["stream_options"]) for it in server.requests()] == [(500, ASKED), (200, ASKED)]


def test_arguments_of_the_program_are_unchanged(server: LlmServer, scheduled: Scheduled) -> None:
    scheduled(stream_usage=True)
    wishes = {"include_obfuscation": False}
    body = {**CHAT, "stream": True, "stream_options": wishes}
    before = copy.deepcopy(body)
    options = openai._models.FinalRequestOptions.construct(method="post", url="/chat/completions", json_data=body)
    shown = options.model_dump()
    with server.openai() as client:
        for named in (False, True):
            arguments = {"cast_to": openai.types.chat.ChatCompletionChunk, "options": options}
            positional = () if named else tuple(arguments.values())
            stream = client.request(
                *positional,
                **(arguments if named else {}),
                stream=True,
                stream_cls=openai.Stream[openai.types.chat.ChatCompletionChunk],
            )
            assert all(chunk.choices for chunk in stream)

    assert body == before
    assert body["stream_options"] is wishes
    assert options.model_dump() == shown
    assert [it.body["stream_options"] for it in server.requests()] == [{**wishes, **ASKED}] * 2


# -- what the server does not have: Azure's odd first chunk, `usage: null`, legacy completions ------------------------


class Bytes(HTTP.SyncByteStream, HTTP.AsyncByteStream):  # type: ignore[misc, name-defined]
    """The body of a streamed answer, as it comes from a network, or all at once."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        yield from self._parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part


CHUNK = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
FILTERED = {**CHUNK, "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
WORD = {**CHUNK, "choices": [{"index": 0, "delta": {"content": "ahoy"}, "finish_reason": None}]}
STOP = {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
TEXT = {**CHUNK, "object": "text_completion", "choices": [{"index": 0, "text": "ahoy", "finish_reason": "stop"}]}
USED = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


class Provider:
    """Answers in this process as OpenAI does, where it is asked for usage and where not."""

    def __init__(self, *events: dict[str, Any], in_memory: bool = False, at_the_end: bool = False) -> None:
        self._events = events
        self._in_memory = in_memory
        self._at_the_end = at_the_end
        self.urls: list[str] = []

    def __call__(self, request: Any) -> Any:
        self.urls.append(str(request.url))
        events = list(self._events)
        if (json.loads(request.content).get("stream_options") or {}).get("include_usage"):
            last = {**events[-1], "usage": USED} if self._at_the_end else {**events[-1], "choices": [], "usage": USED}
            events = [*[{**event, "usage": None} for event in events], last]
            if self._at_the_end:
                del events[-2]
        lines = [b"data: %s\n\n" % json.dumps(event).encode() for event in events] + [b"data: [DONE]\n\n"]
        body: dict[str, Any] = {"content": b"".join(lines)} if self._in_memory else {"stream": Bytes(lines)}
        return HTTP.Response(200, headers={"content-type": "text/event-stream"}, **body)

    async def answer(self, request: Any) -> Any:
        return self(request)


AZURE: dict[str, Any] = {"api_key": KEY, "azure_endpoint": "https://azure.invalid", "api_version": "2024-10-21"}


def play_to(provider: Provider, read: Read, colour: str, *, azure: bool = False) -> list[Any]:
    options: dict[str, Any] = AZURE if azure else {"api_key": KEY}
    if colour == "sync":
        http = client_of(HTTP, provider)
        with (openai.AzureOpenAI if azure else openai.OpenAI)(**options, http_client=http) as client:
            return finished(read(client))

    async def main() -> list[Any]:
        async_http = client_of(HTTP, provider.answer, is_async=True)
        async with (openai.AsyncAzureOpenAI if azure else openai.AsyncOpenAI)(
            **options, http_client=async_http
        ) as client:
            return await read(client)

    return asyncio.run(main())


async def completed(client: Any) -> list[Any]:
    stream = client.completions.create(model="gpt-3.5-turbo-instruct", prompt=PROMPT, stream=True)
    return await chunks(await now(stream))


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("in_memory", [False, True], ids=["streamed", "in-memory"])
@pytest.mark.parametrize(
    ("read", "azure", "events"),
    [
        (created, False, (WORD, STOP)),
        (created, True, (FILTERED, WORD, STOP)),
        (raw_parsed, True, (FILTERED, WORD, STOP)),
        pytest.param(helper, True, (FILTERED, WORD, STOP), marks=since("openai", "1.92")),
        (completed, False, (TEXT,)),
        (completed, True, (TEXT,)),
    ],
)
def test_other_chunks_show_no_trace_of_it(
    read: Read,
    azure: bool,
    events: tuple[dict[str, Any], ...],
    in_memory: bool,
    colour: str,
    scheduled: Scheduled,
) -> None:
    provider = Provider(*events, in_memory=in_memory)
    alone = play_to(provider, read, colour, azure=azure)
    scheduling = scheduled(stream_usage=True)
    assert play_to(provider, read, colour, azure=azure) == alone

    scheduling.settled(1)
    assert [event.spending.usage for event in scheduling.seen.of(Spent)] == [Usage(7, 3)]
    assert len(set(provider.urls)) == 1


@pytest.mark.parametrize("colour", COLOURS)
def test_chunk_with_choices_is_never_hidden(colour: str, scheduled: Scheduled) -> None:
    scheduling = scheduled(stream_usage=True)
    *_, last = play_to(Provider(WORD, STOP, at_the_end=True), created, colour)

    assert last["choices"][0]["finish_reason"] == "stop"
    scheduling.settled(1)
    assert [event.spending.usage for event in scheduling.seen.of(Spent)] == [Usage(7, 3)]


@pytest.mark.parametrize("colour", COLOURS)
def test_half_read_stream_is_settled_by_an_estimate(colour: str, scheduled: Scheduled) -> None:
    async def leave(client: Any) -> list[Any]:
        async with opened(await now(client.chat.completions.create(**CHAT, stream=True))) as stream:
            async for chunk in each(stream):
                return [told(chunk)]
        return []

    scheduling = scheduled(stream_usage=True)
    assert play_to(Provider(WORD, STOP), leave, colour)

    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage is not None
    assert spent.spending.usage.estimated


@pytest.mark.parametrize("colour", COLOURS)
def test_raw_lines_show_it_as_documented(colour: str, scheduled: Scheduled) -> None:
    async def lines(client: Any) -> list[Any]:
        raw = await now(client.chat.completions.with_raw_response.create(**CHAT, stream=True))
        response = raw.http_response
        return [line async for line in each(response.aiter_lines() if colour == "async" else response.iter_lines())]

    scheduled(stream_usage=True)

    assert any('"total_tokens": 10' in line for line in play_to(Provider(WORD, STOP), lines, colour))
