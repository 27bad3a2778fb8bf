"""google-genai against a real server process: both colours, whole and streamed, over each of its transports."""

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from google import genai
from google.genai import _api_client, errors
from llm_server import LlmServer
from opentelemetry.trace import StatusCode
from sdk_scheduling import Scheduled

from loco_otel.events import Granted, Released, Spent, Submitted, Suspended, Throttled, Usage

# The SDK extends a class of aiohttp that is not meant to be.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")

MODEL = "gemini-2.5-flash"
PROMPT = "tell me about the harbour"
CAPACITY, CALLS = 2, 6
RETRIES = {"attempts": 3, "initial_delay": 0.01, "max_delay": 0.01, "jitter": 0.0}


@pytest.fixture(scope="module")
def gemini_server() -> Iterator[LlmServer]:
    with LlmServer() as server:
        yield server


@pytest.fixture
def gemini(gemini_server: LlmServer, monkeypatch: pytest.MonkeyPatch) -> LlmServer:
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    gemini_server.reset()
    return gemini_server


class Mode:
    """One way to make a call, and to read all that it brings."""

    def __init__(self, colour: str, *, streamed: bool) -> None:
        self.colour = colour
        self.streamed = streamed

    def __str__(self) -> str:
        return f"{self.colour}-{'stream' if self.streamed else 'whole'}"

    def client(self, server: LlmServer, monkeypatch: pytest.MonkeyPatch, **options: Any) -> genai.Client:
        monkeypatch.setattr(_api_client, "has_aiohttp", self.colour == "aiohttp")
        where = {"base_url": server.url("gemini"), "api_version": "v1beta"}
        return genai.Client(api_key="fake", http_options={**where, **options})  # type: ignore[arg-type]

    def ask(self, client: genai.Client, calls: int = 1, **options: Any) -> None:
        """Make calls at the same time, and read their answers."""
        options = {"model": MODEL, "contents": PROMPT, **options}
        if self.colour == "sync":
            with ThreadPoolExecutor(calls) as pool:
                for done in [pool.submit(self._ask, client, options) for _ in range(calls)]:
                    done.result()
        else:
            asyncio.run(self._ask_all(client, calls, options))

    def _ask(self, client: genai.Client, options: Any) -> None:
        if self.streamed:
            list(client.models.generate_content_stream(**options))
        else:
            client.models.generate_content(**options)

    async def _ask_all(self, client: genai.Client, calls: int, options: Any) -> None:
        try:
            await asyncio.gather(*[self._ask_async(client, options) for _ in range(calls)])
        finally:
            await client.aio.aclose()

    async def _ask_async(self, client: genai.Client, options: Any) -> None:
        if self.streamed:
            async for _ in await client.aio.models.generate_content_stream(**options):
                pass
        else:
            await client.aio.models.generate_content(**options)


MODES = [Mode(colour, streamed=streamed) for colour in ("sync", "httpx", "aiohttp") for streamed in (False, True)]
each_mode = pytest.mark.parametrize("mode", MODES, ids=str)
each_stream = pytest.mark.parametrize("mode", [mode for mode in MODES if mode.streamed], ids=str)
each_colour = pytest.mark.parametrize("mode", [mode for mode in MODES if not mode.streamed], ids=str)


def in_background(target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target)
    thread.start()
    return thread


@each_mode
def test_peak_equals_the_capacity(
    mode: Mode, gemini: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduling = scheduled(capacity=CAPACITY)
    client = mode.client(gemini, monkeypatch)
    gemini.hold(after_chunks=1 if mode.streamed else None)
    thread = in_background(lambda: mode.ask(client, CALLS))
    gemini.wait_for(held=CAPACITY)
    scheduling.seen.wait_for(Submitted, CALLS)
    assert gemini.state().received == CAPACITY
    gemini.release()
    thread.join()
    scheduling.settled(CALLS)
    assert gemini.peak() == CAPACITY


@each_mode
def test_usage_is_exact(mode: Mode, gemini: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduling = scheduled(capacity=CAPACITY)
    gemini.configure(output_tokens=7, cached_tokens=2, reasoning_tokens=3)
    mode.ask(mode.client(gemini, monkeypatch), config={"max_output_tokens": 50})
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage == Usage(5, 10, False, 2, None, 3)
    assert spent.spending.finish_reasons == ("stop",)
    (span,) = scheduling.spans("generate_content ")
    attributes = span.attributes or {}
    assert attributes["gen_ai.provider.name"] == "gcp.gemini"
    assert attributes["gen_ai.request.model"] == MODEL
    assert attributes["gen_ai.request.max_tokens"] == 50
    assert attributes["server.address"] == "127.0.0.1"


@each_mode
def test_slot_is_free_during_back_off(
    mode: Mode, gemini: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduling = scheduled(capacity=1)
    # Options of the client: those of one call are ignored for async streams by 1.65.
    client = mode.client(gemini, monkeypatch, retry_options=RETRIES)
    gemini.throttle(2)
    mode.ask(client)
    scheduling.settled(1)
    assert [request.status for request in gemini.requests()] == [429, 429, 200]
    assert len(scheduling.seen.of(Suspended)) == 2
    assert len(scheduling.seen.of(Granted)) == 3
    assert [event.status for event in scheduling.seen.of(Throttled)] == [429, 429]


@each_mode
def test_refusal_counts_as_throttling_once(
    mode: Mode, gemini: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduling = scheduled(capacity=1)
    gemini.throttle(1, retry_after=36)
    with pytest.raises(errors.ClientError):
        mode.ask(mode.client(gemini, monkeypatch))
    scheduling.settled(1)
    (throttled,) = scheduling.seen.of(Throttled)
    assert (throttled.status, throttled.retry_after) == (429, 36.0)
    assert not scheduling.seen.of(Spent)
    (span,) = scheduling.spans("call ")
    assert span.status.status_code is StatusCode.ERROR


@each_stream
def test_broken_stream_frees_slot(
    mode: Mode, gemini: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduling = scheduled(capacity=1)
    gemini.break_off(1, after_chunks=2)
    with pytest.raises(Exception, match=r"(?i)peer closed|payload"):
        mode.ask(mode.client(gemini, monkeypatch))
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage is not None
    assert spent.spending.usage.estimated


@pytest.mark.parametrize("ending", ["close", "drop"])
def test_stream_left_early_frees_slot(
    ending: str, gemini: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduling = scheduled(capacity=1)
    client = MODES[0].client(gemini, monkeypatch)
    gemini.hold(after_chunks=2)
    gc.disable()
    try:
        stream: Any = client.models.generate_content_stream(model=MODEL, contents=PROMPT)
        assert not scheduling.seen.of(Submitted)  # nothing is sent before the first chunk is asked for
        next(stream)
        assert scheduling.active() == 1
        if ending == "close":
            stream.close()
        del stream
        scheduling.seen.wait_for(Released)
        gemini.wait_for(finished=1)
    finally:
        gc.enable()
    scheduling.settled(1)


@pytest.mark.parametrize("ending", ["close", "drop"])
@pytest.mark.parametrize("colour", ["httpx", "aiohttp"])
def test_async_stream_left_early_frees_slot_and_connection(
    ending: str, colour: str, gemini: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduling = scheduled(capacity=1)
    client = Mode(colour, streamed=True).client(gemini, monkeypatch)
    gemini.hold(after_chunks=2)

    async def leave_early() -> None:
        stream: Any = await client.aio.models.generate_content_stream(model=MODEL, contents=PROMPT)
        assert not scheduling.seen.of(Submitted)
        await anext(stream)
        assert scheduling.active() == 1
        if ending == "close":
            await stream.aclose()
        del stream
        await scheduling.seen.told(Released)
        await asyncio.to_thread(gemini.wait_for, finished=1)
        await client.aio.aclose()

    gc.disable()
    try:
        asyncio.run(leave_early())
    finally:
        gc.enable()
    scheduling.settled(1)


@each_mode
def test_cheaper_model_is_in_the_path(
    mode: Mode, gemini: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = tmp_path / "loco.toml"
    settings.write_text(f'[downgrade]\n"{MODEL}" = ["gemini-2.5-flash-lite"]\n')
    scheduled(capacity=1, budgets="*=0.01", budget_on_exceeded="downgrade", config=settings)
    mode.ask(mode.client(gemini, monkeypatch), config={"max_output_tokens": 10_000})
    assert [request.model for request in gemini.requests()] == ["gemini-2.5-flash-lite"]


@each_colour
def test_embeddings_are_scheduled_and_token_counts_are_not(
    mode: Mode, gemini: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduling = scheduled(capacity=1)
    client = mode.client(gemini, monkeypatch)
    if mode.colour == "sync":
        client.models.count_tokens(model=MODEL, contents=PROMPT)
        client.models.embed_content(model="gemini-embedding-001", contents=PROMPT)
    else:

        async def ask() -> None:
            await client.aio.models.count_tokens(model=MODEL, contents=PROMPT)
            await client.aio.models.embed_content(model="gemini-embedding-001", contents=PROMPT)
            await client.aio.aclose()

        asyncio.run(ask())
    scheduling.settled(1)
    assert len(scheduling.spans("embeddings ")) == 1
