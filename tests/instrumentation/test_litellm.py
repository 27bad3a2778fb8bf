"""What LiteLLM has beside the conformance suite: its errors, its streams of both colours, and what is below."""

import asyncio
import gc
import sys
from typing import Any

import litellm_calls
import pytest
import server_fixtures
from echo_server import EchoServer
from litellm_calls import LITELLM, MARKS
from llm_server import LlmServer
from sdk_scheduling import Scheduled, Scheduling

from loco_otel.events import Granted, Released, Spent, Submitted, Throttled, ThrottleKind

pytestmark = MARKS

MESSAGES = [{"role": "user", "content": "tell me about the harbour"}]
ROUTES = ("openai", "anthropic")
each_route = pytest.mark.parametrize("route", ROUTES)

server = server_fixtures.server
closed_clients = litellm_calls.closed_clients


def request_of(server: LlmServer, route: str = "openai", model: str = "gpt-4o-mini", **more: Any) -> dict[str, Any]:
    return {
        "model": f"{route}/{model}",
        "messages": MESSAGES,
        "api_base": server.url(route),
        "api_key": "fake",
        "max_retries": 0,
        **more,
    }


def submitted(scheduling: Scheduling) -> tuple[str | None, str | None]:
    (event,) = scheduling.seen.of(Submitted)
    return event.ticket.request.provider, event.ticket.request.model


def read_usage(scheduling: Scheduling) -> tuple[int, bool]:
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage is not None
    return spent.spending.usage.output_tokens, spent.spending.usage.estimated


@each_route
def test_call_names_provider_and_its_model(route: str, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    LITELLM.completion(**request_of(server, route))
    assert submitted(scheduling) == (route, "gpt-4o-mini")
    scheduling.settled(1)


@each_route
@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, ThrottleKind.LOAD), (503, ThrottleKind.LOAD), (529, ThrottleKind.LOAD), (400, None)],
)
def test_error_reports_status_of_provider(
    status: int, kind: ThrottleKind | None, route: str, server: LlmServer, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=1)
    server.throttle(1, status=status, retry_after=0.25)
    with pytest.raises(LITELLM.exceptions.APIError if status == 529 and route == "openai" else Exception):
        LITELLM.completion(**request_of(server, route))
    found = [(event.status, event.kind, event.retry_after) for event in scheduling.seen.of(Throttled)]
    assert found == ([] if kind is None else [(status, kind, 0.25)])
    scheduling.settled(1)


@pytest.mark.parametrize(("route", "code"), [("openai", "insufficient_quota"), ("anthropic", None)])
def test_empty_account_is_no_load(route: str, code: str | None, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    details = {"type": "rate_limit_error", "message": "no", "details": {"error_code": "credit_balance_too_low"}}
    body = {"type": "error", "error": details} if route == "anthropic" else None
    server.throttle(1, status=429, kind=code, body=body)
    with pytest.raises(LITELLM.exceptions.RateLimitError):
        LITELLM.completion(**request_of(server, route))
    (event,) = scheduling.seen.of(Throttled)
    assert event.kind is ThrottleKind.SPEND


@each_route
def test_timeout_is_reported_without_status(route: str, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    server.hold()
    with pytest.raises(LITELLM.exceptions.Timeout):
        LITELLM.completion(**request_of(server, route, timeout=0.2))
    server.release()
    (event,) = scheduling.seen.of(Throttled)
    assert (event.status, event.kind) == (None, ThrottleKind.TIMEOUT)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage is not None
    assert spent.spending.usage.estimated, "the provider completes the request and bills it"


@each_route
def test_dropped_stream_gives_slot_back(route: str, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    server.hold(after_chunks=4)
    stream = LITELLM.completion(**request_of(server, route, stream=True))
    next(iter(stream))
    assert scheduling.active() == 1
    del stream
    gc.collect()
    scheduling.seen.wait_for(Released)
    server.wait_for(finished=1)
    assert [request.end for request in server.requests()] == ["disconnected"]
    scheduling.settled(1)


@each_route
def test_stream_that_is_left_is_charged_its_text(route: str, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(count_spend=True)
    server.hold(after_chunks=4)
    stream = LITELLM.completion(**request_of(server, route, stream=True))
    text = next(stream).choices[0].delta.content
    del stream
    gc.collect()
    assert read_usage(scheduling) == (-(-len(text) // 4), True)


def test_anthropic_stream_left_while_it_reasons_is_charged(scheduled: Scheduled) -> None:
    scheduling = scheduled(count_spend=True)
    usage = {"input_tokens": 3, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "model": "claude", "content": [], "usage": usage}
    thought = {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "x" * 400}}
    events = [
        {"type": "message_start", "message": {**message, "stop_reason": None, "stop_sequence": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        *[thought] * 5,
    ]
    with EchoServer() as echo:
        request = {"model": "anthropic/claude-sonnet-5", "messages": MESSAGES, "api_base": echo.url, "api_key": "fake"}
        stream = LITELLM.completion(**request, stream=True, reply=events)
        for _ in range(2):
            assert next(stream).choices[0].delta.reasoning_content
        del stream
        gc.collect()
    assert read_usage(scheduling) == (200, True)


@each_route
def test_stream_keeps_type_and_is_its_own_iterator(route: str, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    stream = LITELLM.completion(**request_of(server, route, stream=True))
    assert isinstance(stream, LITELLM.CustomStreamWrapper)
    assert stream.custom_llm_provider == route
    first = next(stream)
    rest = list(stream)
    assert first.choices[0].delta.content
    assert rest[-1].choices[0].finish_reason == "stop"
    scheduling.settled(1)


def test_requested_usage_is_hidden_from_program(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1, stream_usage=True)
    server.configure(output_tokens=7)
    chunks = list(LITELLM.completion(**request_of(server, stream=True)))
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert not any(getattr(chunk, "usage", None) for chunk in chunks)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage is not None
    assert (spent.spending.usage.output_tokens, spent.spending.usage.estimated) == (7, False)


def test_usage_that_program_requests_reaches_it(server: LlmServer, scheduled: Scheduled) -> None:
    scheduled(capacity=1, stream_usage=True)
    server.configure(output_tokens=7)
    request = request_of(server, stream=True, stream_options={"include_usage": True})
    usages = [getattr(chunk, "usage", None) for chunk in LITELLM.completion(**request)]
    assert [usage.completion_tokens for usage in usages if usage] == [7]


def test_anthropic_usage_needs_no_request(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    server.configure(output_tokens=7, cached_tokens=2)
    for _ in LITELLM.completion(**request_of(server, "anthropic", stream=True)):
        pass
    (spent,) = scheduling.seen.of(Spent)
    usage = spent.spending.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens) == (5, 7, 2)
    assert not usage.estimated


def test_openai_sdk_below_is_part_of_call(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def call() -> None:
        await LITELLM.acompletion(**request_of(server))
        await LITELLM.close_litellm_async_clients()

    LITELLM.completion(**request_of(server))
    asyncio.run(call())
    scheduling.settled(2)
    assert len(scheduling.seen.of(Granted)) == 2
    assert len(scheduling.spans("chat ")) == 2


def test_mock_response_passes_unscheduled(scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    LITELLM.completion("openai/m", MESSAGES, mock_response="hello")
    assert not scheduling.seen.of(Submitted)


def test_each_name_of_function_is_wrapped_and_restored(scheduled: Scheduled) -> None:
    names = [("litellm", name) for name in ("completion", "acompletion", "embedding", "aembedding", "responses")]
    names += [("litellm.main", "completion"), ("litellm.chat_completions.dispatch", "acompletion")]
    before = {(module, name): getattr(sys.modules[module], name) for module, name in names}
    scheduling = scheduled(capacity=1)
    for (module, name), function in before.items():
        assert getattr(sys.modules[module], name).__wrapped__ is function
    scheduling.close()
    for (module, name), function in before.items():
        assert getattr(sys.modules[module], name) is function


def test_cheaper_model_keeps_prefix(server: LlmServer, scheduled: Scheduled) -> None:
    from loco_otel_instrumentation.litellm.adapter import LiteLLMAdapter

    adapter = LiteLLMAdapter("chat", "acompletion", sends_usage=False)
    assert adapter.with_model({"model": "anthropic/claude-opus-5"}, "claude-haiku-5")["model"] == (
        "anthropic/claude-haiku-5"
    )
    assert adapter.with_model({"model": "gpt-4o"}, "gpt-4o-mini")["model"] == "gpt-4o-mini"


@pytest.mark.parametrize(
    ("model", "api_base", "provider", "host"),
    [
        ("openai/gpt-4o", None, "openai", None),
        ("openai/deepseek-chat", "https://api.deepseek.com/v1", "deepseek", "api.deepseek.com"),
        ("groq/llama-3.3-70b-versatile", None, "groq", "api.groq.com"),
        ("mistral/mistral-large-latest", "https://api.mistral.ai/v1", "mistral_ai", "api.mistral.ai"),
        ("xai/grok-4", None, "x_ai", "api.x.ai"),
        ("azure/gpt-4o", "https://myres.openai.azure.com", "azure.ai.openai", "myres.openai.azure.com"),
        ("bedrock/us.anthropic.claude-opus-5", None, "aws.bedrock", None),
        ("vertex_ai/gemini-2.5-pro", None, "gcp.vertex_ai", None),
        ("gemini/gemini-2.5-pro", None, "gcp.gemini", None),
        ("hosted_vllm/m", "http://127.0.0.1:8000/v1", "vllm", "127.0.0.1"),
        ("of-a-callback", None, "litellm", None),
    ],
)
def test_route_names_provider_and_host(model: str, api_base: str | None, provider: str, host: str | None) -> None:
    from loco_otel_instrumentation.litellm.routes import find_route

    route = find_route(model, None, api_base)
    assert (route.provider, route.address and route.address.host) == (provider, host)
    assert route.model == model.rpartition("/")[2]


OTHER_CALLS = (
    ("embedding", {"model": "openai/text-embedding-3-small", "input": ["the harbour"]}),
    ("text_completion", {"model": "anthropic/claude-sonnet-5", "prompt": "tell me about the harbour"}),
    # LiteLLM turns it into a completion, whose call is a part of this one.
    ("responses", {"model": "anthropic/claude-sonnet-5", "input": "tell me about the harbour"}),
)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(("name", "request_"), OTHER_CALLS, ids=[name for name, _ in OTHER_CALLS])
def test_other_calls_are_scheduled_once_with_their_usage(
    name: str, request_: dict[str, Any], is_async: bool, server: LlmServer, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=1)
    route = request_["model"].partition("/")[0]
    options = {**request_, "api_base": server.url(route), "api_key": "fake", "max_retries": 0}

    async def call() -> None:
        await getattr(LITELLM, f"a{name}")(**options)
        await LITELLM.close_litellm_async_clients()

    if is_async:
        asyncio.run(call())
    else:
        getattr(LITELLM, name)(**options)
    scheduling.settled(1)
    assert submitted(scheduling) == (route, request_["model"].partition("/")[2])
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage is not None
    assert not spent.spending.usage.estimated
    assert spent.spending.usage.input_tokens > 0
    assert [request.status for request in server.requests()] == [200]


def test_response_of_openai_is_scheduled_once(llm_server: Any, scheduled: Scheduled) -> None:
    llm_server.reset()
    scheduling = scheduled(capacity=1)
    url = llm_server.url("openai")
    LITELLM.responses(model="openai/gpt-4o", input="tell me about the harbour", api_base=url, api_key="fake")
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage is not None
    assert not spent.spending.usage.estimated
