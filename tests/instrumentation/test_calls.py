"""Every way of calling an SDK is scheduled once, holds its slot to the end of its body, and returns what it did."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import openai
import pytest
from patience import PATIENCE
from pydantic import BaseModel
from sdk_calls import CHAT, MESSAGE, PROMPT, each, finished, now, opened
from sdk_http import client_of, http_of
from sdk_scheduling import Scheduled, Scheduling
from sdk_server import KEY, LlmServer, peak
from sdk_versions import since

from loco_otel.events import Granted, GrantReason, Released, Spent, Submitted

CAPACITY = 2


CALLERS = 4


HEAD = 0.06


"""Seconds before the server sends headers."""


BODY = 0.12


"""Seconds that a stream pauses after its first chunks."""


class Seen(NamedTuple):
    """What a caller got: the types of all that it received, and the tokens if the answer has them."""

    types: tuple[type, ...]
    tokens: tuple[int, int] | None = None


class Way(NamedTuple):
    """One way of calling, written once for both colours of client."""

    sdk: str
    name: str
    call: Callable[[Any], Awaitable[Seen]]
    exact: bool
    """Whether the scheduler learns the tokens from the server; else it estimates them."""
    operation: str = "chat"
    since: str = "0"
    """The SDK's first version that has it."""


WAYS: list[Way] = []


_Call = Callable[[Any], Coroutine[Any, Any, Seen]]


def way(sdk: str, *, exact: bool = True, operation: str = "chat", since: str = "0") -> Callable[[_Call], _Call]:
    def add(call: _Call) -> _Call:
        WAYS.append(Way(sdk, call.__name__, call, exact, operation, since))
        return call

    return add


class City(BaseModel):
    name: str


USAGE_CHUNK: dict[str, Any] = {"stream_options": {"include_usage": True}}


EMBED: dict[str, Any] = {"model": "text-embedding-3-small", "input": PROMPT, "encoding_format": "float"}


RESPOND: dict[str, Any] = {"model": "gpt-4o", "input": PROMPT}


def tokens(answer: Any) -> tuple[int, int]:
    usage = answer.usage
    if hasattr(usage, "prompt_tokens"):
        return usage.prompt_tokens, getattr(usage, "completion_tokens", 0)
    return usage.input_tokens, usage.output_tokens


def whole(answer: Any) -> Seen:
    return Seen((type(answer),), tokens(answer))


async def chunks(stream: Any) -> Seen:
    types, told = [type(stream)], None
    async for chunk in each(stream):
        types.append(type(chunk))
        if getattr(chunk, "usage", None) is not None:
            told = tokens(chunk)
    return Seen(tuple(types), told)


# -- openai -----------------------------------------------------------------------------------------------------------


@way("openai")
async def chat(client: Any) -> Seen:
    return whole(await now(client.chat.completions.create(**CHAT)))


@way("openai", since="1.92")
async def chat_parse(client: Any) -> Seen:
    answer = await now(client.chat.completions.parse(**CHAT, response_format=City))
    return Seen((type(answer), type(answer.choices[0].message.parsed)), tokens(answer))


@way("openai", exact=False)
async def chat_stream(client: Any) -> Seen:
    return await chunks(await now(client.chat.completions.create(**CHAT, stream=True)))


@way("openai")
async def chat_stream_with_usage(client: Any) -> Seen:
    return await chunks(await now(client.chat.completions.create(**CHAT, **USAGE_CHUNK, stream=True)))


@way("openai", since="1.92")
async def chat_stream_helper(client: Any) -> Seen:
    async with opened(client.chat.completions.stream(**CHAT, **USAGE_CHUNK)) as stream:
        seen = await chunks(stream)
        return Seen(seen.types, tokens(await now(stream.get_final_completion())))


@way("openai")
async def beta_chat_parse(client: Any) -> Seen:
    answer = await now(client.beta.chat.completions.parse(**CHAT, response_format=City))
    return Seen((type(answer), type(answer.choices[0].message.parsed)), tokens(answer))


@way("openai")
async def beta_chat_stream_helper(client: Any) -> Seen:
    async with opened(client.beta.chat.completions.stream(**CHAT, **USAGE_CHUNK)) as stream:
        seen = await chunks(stream)
        return Seen(seen.types, tokens(await now(stream.get_final_completion())))


@way("openai", exact=False)
async def chat_stream_closed_in_with(client: Any) -> Seen:
    async with opened(await now(client.chat.completions.create(**CHAT, stream=True))) as stream:
        return await chunks(stream)


@way("openai")
async def responses(client: Any) -> Seen:
    return whole(await now(client.responses.create(**RESPOND)))


@way("openai")
async def responses_parse(client: Any) -> Seen:
    answer = await now(client.responses.parse(**RESPOND, text_format=City))
    return Seen((type(answer), type(answer.output_parsed)), tokens(answer))


async def response_events(stream: Any) -> Seen:
    types, told = [type(stream)], None
    async for event in each(stream):
        types.append(type(event))
        if event.type == "response.completed":
            told = tokens(event.response)
    return Seen(tuple(types), told)


@way("openai")
async def responses_stream(client: Any) -> Seen:
    return await response_events(await now(client.responses.create(**RESPOND, stream=True)))


@way("openai")
async def responses_stream_helper(client: Any) -> Seen:
    async with opened(client.responses.stream(**RESPOND)) as stream:
        return await response_events(stream)


@way("openai", operation="embeddings")
async def embeddings(client: Any) -> Seen:
    return whole(await now(client.embeddings.create(**EMBED)))


@way("openai")
async def chat_raw(client: Any) -> Seen:
    raw = await now(client.chat.completions.with_raw_response.create(**CHAT))
    answer = await now(raw.parse())
    return Seen((type(raw), type(answer)), tokens(answer))


@way("openai")
async def chat_raw_unparsed(client: Any) -> Seen:
    raw = await now(client.chat.completions.with_raw_response.create(**CHAT))
    usage = raw.http_response.json()["usage"]
    return Seen((type(raw),), (usage["prompt_tokens"], usage["completion_tokens"]))


@way("openai")
async def chat_raw_stream(client: Any) -> Seen:
    raw = await now(client.chat.completions.with_raw_response.create(**CHAT, **USAGE_CHUNK, stream=True))
    seen = await chunks(await now(raw.parse()))
    return Seen((type(raw), *seen.types), seen.tokens)


@way("openai", exact=False)
async def chat_streaming_response_read(client: Any) -> Seen:
    async with opened(client.chat.completions.with_streaming_response.create(**CHAT)) as raw:
        return Seen((type(raw), type(await now(raw.read()))))


@way("openai")
async def chat_streaming_response_parse(client: Any) -> Seen:
    async with opened(client.chat.completions.with_streaming_response.create(**CHAT)) as raw:
        answer = await now(raw.parse())
        return Seen((type(raw), type(answer)), tokens(answer))


@way("openai")
async def chat_streaming_response_parse_stream(client: Any) -> Seen:
    call = client.chat.completions.with_streaming_response.create(**CHAT, **USAGE_CHUNK, stream=True)
    async with opened(call) as raw:
        seen = await chunks(await now(raw.parse()))
        return Seen((type(raw), *seen.types), seen.tokens)


@way("openai", exact=False)
async def chat_streaming_response_lines(client: Any) -> Seen:
    async with opened(client.chat.completions.with_streaming_response.create(**CHAT, stream=True)) as raw:
        return Seen((type(raw), *[type(line) async for line in each(raw.iter_lines())]))


@way("openai", exact=False)
async def chat_streaming_response_bytes(client: Any) -> Seen:
    async with opened(client.chat.completions.with_streaming_response.create(**CHAT, stream=True)) as raw:
        return Seen((type(raw), type(b"".join([part async for part in each(raw.iter_bytes())]))))


@way("openai")
async def responses_raw(client: Any) -> Seen:
    raw = await now(client.responses.with_raw_response.create(**RESPOND))
    answer = await now(raw.parse())
    return Seen((type(raw), type(answer)), tokens(answer))


@way("openai")
async def responses_streaming_response_parse_stream(client: Any) -> Seen:
    async with opened(client.responses.with_streaming_response.create(**RESPOND, stream=True)) as raw:
        seen = await response_events(await now(raw.parse()))
        return Seen((type(raw), *seen.types), seen.tokens)


@way("openai")
async def post(client: Any) -> Seen:
    response = await now(client.post("/chat/completions", cast_to=http_of("openai").Response, body=CHAT))
    usage = response.json()["usage"]
    return Seen((type(response),), (usage["prompt_tokens"], usage["completion_tokens"]))


@way("openai", exact=False)
async def post_stream(client: Any) -> Seen:
    body = {**CHAT, "stream": True}
    stream_cls = openai.AsyncStream[Any] if isinstance(client, openai.AsyncOpenAI) else openai.Stream[Any]
    response = await now(
        client.post(
            "/chat/completions", cast_to=http_of("openai").Response, body=body, stream=True, stream_cls=stream_cls
        )
    )
    lines = response.aiter_lines() if isinstance(client, openai.AsyncOpenAI) else response.iter_lines()
    return Seen((type(response), *[type(line) async for line in each(lines)]))


@since("openai", "2.9")
def test_compaction_is_scheduled_and_its_tokens_are_counted(scheduled: Scheduled) -> None:
    """Which the mock server does not offer."""
    usage = {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12}
    answer = {"id": "r1", "object": "response.compaction", "created_at": 1, "output": [], "usage": usage}
    http = http_of("openai")
    scheduling = scheduled(capacity=1)
    transport = client_of(http, lambda _: http.Response(200, json=answer))
    with openai.OpenAI(api_key=KEY, http_client=transport) as client:
        assert client.responses.compact(**RESPOND).id == "r1"
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.ticket.request.model == RESPOND["model"]
    assert spent.spending.usage is not None
    assert spent.spending.usage[:3] == (9, 3, False)


# -- anthropic --------------------------------------------------------------------------------------------------------


async def message_events(stream: Any) -> Seen:
    types, read, written = [type(stream)], 0, 0
    async for event in each(stream):
        types.append(type(event))
        if event.type == "message_start":
            read = event.message.usage.input_tokens
        elif event.type == "message_delta":
            written = event.usage.output_tokens
    return Seen(tuple(types), (read, written))


@way("anthropic")
async def messages(client: Any) -> Seen:
    return whole(await now(client.messages.create(**MESSAGE)))


@way("anthropic")
async def messages_stream(client: Any) -> Seen:
    return await message_events(await now(client.messages.create(**MESSAGE, stream=True)))


@way("anthropic")
async def messages_stream_helper(client: Any) -> Seen:
    async with opened(client.messages.stream(**MESSAGE)) as stream:
        return await message_events(stream)


@way("anthropic")
async def messages_text_stream(client: Any) -> Seen:
    async with opened(client.messages.stream(**MESSAGE)) as stream:
        types = [type(text) async for text in each(stream.text_stream)]
        return Seen((type(stream), *types), tokens(await now(stream.get_final_message())))


@way("anthropic")
async def beta_messages(client: Any) -> Seen:
    return whole(await now(client.beta.messages.create(**MESSAGE)))


@way("anthropic")
async def beta_messages_stream(client: Any) -> Seen:
    return await message_events(await now(client.beta.messages.create(**MESSAGE, stream=True)))


@way("anthropic")
async def beta_messages_stream_helper(client: Any) -> Seen:
    async with opened(client.beta.messages.stream(**MESSAGE)) as stream:
        return await message_events(stream)


@way("anthropic")
async def messages_raw(client: Any) -> Seen:
    raw = await now(client.messages.with_raw_response.create(**MESSAGE))
    answer = await now(raw.parse())
    return Seen((type(raw), type(answer)), tokens(answer))


@way("anthropic")
async def messages_raw_stream(client: Any) -> Seen:
    raw = await now(client.messages.with_raw_response.create(**MESSAGE, stream=True))
    seen = await message_events(await now(raw.parse()))
    return Seen((type(raw), *seen.types), seen.tokens)


@way("anthropic", exact=False)
async def messages_streaming_response_read(client: Any) -> Seen:
    async with opened(client.messages.with_streaming_response.create(**MESSAGE)) as raw:
        return Seen((type(raw), type(await now(raw.read()))))


@way("anthropic")
async def messages_streaming_response_parse(client: Any) -> Seen:
    async with opened(client.messages.with_streaming_response.create(**MESSAGE)) as raw:
        answer = await now(raw.parse())
        return Seen((type(raw), type(answer)), tokens(answer))


@way("anthropic")
async def messages_streaming_response_parse_stream(client: Any) -> Seen:
    async with opened(client.messages.with_streaming_response.create(**MESSAGE, stream=True)) as raw:
        seen = await message_events(await now(raw.parse()))
        return Seen((type(raw), *seen.types), seen.tokens)


@way("anthropic", exact=False)
async def messages_streaming_response_lines(client: Any) -> Seen:
    async with opened(client.messages.with_streaming_response.create(**MESSAGE, stream=True)) as raw:
        return Seen((type(raw), *[type(line) async for line in each(raw.iter_lines())]))


@way("anthropic", exact=False)
async def messages_streaming_response_bytes(client: Any) -> Seen:
    async with opened(client.messages.with_streaming_response.create(**MESSAGE, stream=True)) as raw:
        return Seen((type(raw), type(b"".join([part async for part in each(raw.iter_bytes())]))))


# -- callers ----------------------------------------------------------------------------------------------------------


def in_threads(server: LlmServer, way: Way, callers: int) -> list[Seen]:
    with getattr(server, way.sdk)() as client, ThreadPoolExecutor(callers) as pool:
        return list(pool.map(lambda _: finished(way.call(client)), range(callers), timeout=PATIENCE))


def in_one_loop(server: LlmServer, way: Way, callers: int) -> list[Seen]:
    async def main() -> list[Seen]:
        async with getattr(server, f"async_{way.sdk}")() as client:
            return await asyncio.gather(*[way.call(client) for _ in range(callers)])

    return asyncio.run(main())


def in_several_loops(server: LlmServer, way: Way, callers: int) -> list[Seen]:
    loops = min(callers, 2)
    with ThreadPoolExecutor(loops) as pool:
        each_loop = pool.map(lambda _: in_one_loop(server, way, callers // loops), range(loops), timeout=PATIENCE)
        return [seen for loop in each_loop for seen in loop]


Mode = Callable[[LlmServer, Way, int], list[Seen]]


@pytest.mark.parametrize(
    "way", [pytest.param(it, id=f"{it.sdk}-{it.name}", marks=since(it.sdk, it.since)) for it in WAYS]
)
@pytest.mark.parametrize("mode", [in_threads, in_one_loop, in_several_loops])
def test_each_way_of_calling_is_scheduled_once(mode: Mode, way: Way, server: LlmServer, scheduled: Scheduled) -> None:
    unpatched = mode(server, way, 1)
    (request,) = server.requests()
    server.reset()
    server.script(
        {"type": "delay", "seconds": HEAD if request.body.get("stream") else HEAD + BODY, "times": None},
        {"type": "stream_fault", "kind": "stall", "after_chunks": 2, "stall_seconds": BODY, "times": None},
    )
    scheduling = scheduled(capacity=CAPACITY)
    with scheduling.full_until_waiting(CAPACITY, CALLERS):
        assert mode(server, way, CALLERS) == unpatched * CALLERS

    scheduling.settled(CALLERS + CAPACITY)
    requests = server.requests()
    assert len(requests) == CALLERS
    # Two are granted together, whether or not the second reaches a busy server before the first has its answer.
    assert peak(requests) <= CAPACITY
    assert most_granted(scheduling) == CAPACITY
    assert Counter(event.reason for event in scheduling.seen.of(Granted)) == {
        GrantReason.FREE: CAPACITY,
        GrantReason.SCORE: CALLERS,
    }
    asked_for = [event.ticket.request for event in scheduling.seen.of(Submitted)][CAPACITY:]
    assert len(asked_for) == CALLERS
    for asked in asked_for:
        assert (asked.provider, asked.task_type, asked.model) == (way.sdk, way.operation, request.body["model"])
    check_spending(scheduling, way, unpatched[0])


def most_granted(scheduling: Scheduling) -> int:
    at_once = most = 0
    for event in scheduling.seen.events:
        if isinstance(event, Granted):
            at_once += 1
        elif isinstance(event, Released):
            at_once -= 1
        most = max(most, at_once)
    return most


def check_spending(scheduling: Scheduling, way: Way, seen: Seen) -> None:
    spent = scheduling.seen.of(Spent)
    assert len(spent) == CALLERS
    usages = {event.spending.usage for event in spent}
    if way.exact:
        assert seen.tokens is not None
        assert {(usage.input_tokens, usage.output_tokens, usage.estimated) for usage in usages if usage} == {
            (*seen.tokens, False)
        }
    else:
        (usage,) = usages
        assert usage is not None
        assert usage.estimated
        assert usage.input_tokens > 0
        assert usage.output_tokens > 0
