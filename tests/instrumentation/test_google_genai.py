"""What google-genai has beside the conformance suite: its own errors, lazy streams, Vertex AI, and what passes."""

import asyncio
import gc
from pathlib import Path
from typing import Any

import google.auth.credentials
import pytest
from google import genai
from google.genai import _api_client, errors
from llm_server import LlmServer
from loco_otel_instrumentation.google_genai.adapter import GoogleGenaiAdapter
from opentelemetry.trace import StatusCode
from sdk_scheduling import Scheduled

from loco_otel.events import Released, Spent, Submitted, Throttled, Usage

# The SDK extends a class of aiohttp that is not meant to be.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")

MODEL = "gemini-2.5-flash"
PROMPT = "tell me about the harbour"
CAPACITY = 2


@pytest.fixture
def gemini(server_process: LlmServer, monkeypatch: pytest.MonkeyPatch) -> LlmServer:
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    server_process.reset()
    return server_process


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

    def ask(self, client: genai.Client, **options: Any) -> None:
        """Make a call, and read its answer."""
        options = {"model": MODEL, "contents": PROMPT, **options}
        if self.colour != "sync":
            asyncio.run(self._ask_async(client, options))
        elif self.streamed:
            list(client.models.generate_content_stream(**options))
        else:
            client.models.generate_content(**options)

    async def _ask_async(self, client: genai.Client, options: Any) -> None:
        try:
            if self.streamed:
                async for _ in await client.aio.models.generate_content_stream(**options):
                    pass
            else:
                await client.aio.models.generate_content(**options)
        finally:
            await client.aio.aclose()


MODES = [Mode(colour, streamed=streamed) for colour in ("sync", "httpx", "aiohttp") for streamed in (False, True)]
each_mode = pytest.mark.parametrize("mode", MODES, ids=str)
each_colour = pytest.mark.parametrize("mode", [mode for mode in MODES if not mode.streamed], ids=str)


@each_mode
def test_span_and_usage_have_details(
    mode: Mode, gemini: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
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
def test_refusal_is_throttling_once(
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
        await scheduling.seen.await_event(Released)
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
def test_count_of_tokens_passes_embeddings_do_not(
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


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("post", "cachedContents"),
        ("get", "files/f"),
        ("post", "upload/v1beta/files"),
        ("post", f"models/{MODEL}:countTokens"),
        ("post", f"publishers/google/models/{MODEL}:computeTokens"),
        ("post", f"models/{MODEL}:batchGenerateContent"),
        ("post", f"models/{MODEL}:asyncBatchEmbedContent"),
        ("post", "models/veo-3:predictLongRunning"),
        ("post", "tunedModels"),
        ("get", "operations/o"),
        ("get", f"models/{MODEL}"),
    ],
)
def test_request_that_generates_nothing_passes(method: str, path: str) -> None:
    client = genai.Client(api_key="fake")._api_client
    assert describe(client, path, method) is None


def describe(client: Any, path: str, method: str = "post", **body: Any) -> Any:
    options = {"http_method": method, "path": path, "request_dict": body, "http_options": None}
    return GoogleGenaiAdapter().describe_call(client, options)


class Credentials(google.auth.credentials.Credentials):  # type: ignore[misg, no-untyped-call]
    """Of a project that nobody has."""

    def __init__(self) -> None:
        super().__init__()
        self.token = "fake"

    def refresh(self, request: Any) -> None:
        raise AssertionError("the token is good")


def make_vertex_client(**options: Any) -> genai.Client:
    where: Any = {"project": "p", "location": "europe-west4", "credentials": Credentials()}
    return genai.Client(vertexai=True, **where, http_options=options or None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "model"),
    [
        (f"publishers/google/models/{MODEL}:generateContent", MODEL),
        (f"projects/p/locations/global/publishers/google/models/{MODEL}:streamGenerateContent?alt=sse", MODEL),
        ("publishers/meta/models/llama-4:generateContent", "llama-4"),
        ("projects/p/locations/europe-west4/endpoints/123:generateContent", "123"),
    ],
)
def test_model_of_vertex_is_the_end_of_its_name(path: str, model: str) -> None:
    description = describe(make_vertex_client()._api_client, path, contents=[])
    assert (description.provider, description.operation) == ("gcp.vertex_ai", "generate_content")
    assert description.model == model
    assert description.url.host == "europe-west4-aiplatform.googleapis.com"


@each_mode
def test_vertex_calls_are_scheduled(
    mode: Mode, gemini: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduling = scheduled(capacity=1)
    gemini.configure(output_tokens=7)
    monkeypatch.setattr(_api_client, "has_aiohttp", mode.colour == "aiohttp")
    mode.ask(make_vertex_client(base_url=gemini.url("gemini")))
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage == Usage(5, 7, False)
    (span,) = scheduling.spans("generate_content ")
    assert (span.attributes or {})["gen_ai.provider.name"] == "gcp.vertex_ai"
    (request,) = gemini.requests()
    assert request.path.endswith(
        f"/projects/p/locations/europe-west4/publishers/google/models/{MODEL}:{request.operation}"
    )


@pytest.mark.filterwarnings("ignore:The generate_images method")
def test_predictions_of_vertex_are_embeddings_or_images(gemini: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    client = make_vertex_client(base_url=gemini.url("gemini"))
    client.models.embed_content(model="text-embedding-005", contents=[PROMPT, "again"])
    client.models.generate_images(model="imagen-4", prompt=PROMPT)
    scheduling.settled(2)
    assert [request.operation for request in gemini.requests()] == ["predict", "predict"]
    assert len(scheduling.spans("embeddings text-embedding-005")) == 1
    assert len(scheduling.spans("generate_content imagen-4")) == 1
    assert scheduling.seen.of(Spent)[0].spending.usage == Usage(2, 0, False)
