"""What calls without an SDK have beside the conformance suite: which requests they are, and what the client returns."""

from typing import Any

import httpx
import httpx2
import openai
import pytest
import server_fixtures
from llm_server import LlmServer
from loco_otel_instrumentation.http import adapter
from loco_otel_instrumentation.http.adapter import HttpAdapter
from sdk_scheduling import Scheduled

from loco_otel._runtime import faults
from loco_otel.events import Spent, Submitted, Throttled

HOST = "127.0.0.1"
MESSAGES = [{"role": "user", "content": "tell me about the harbour"}]
BODY: dict[str, Any] = {"model": "gpt-5.5", "messages": MESSAGES}
STREAM = {**BODY, "stream": True, "stream_options": {"include_usage": True}}

server = server_fixtures.server


@pytest.fixture
def url(server: LlmServer) -> str:
    return f"{server.url('openai')}/chat/completions"


each_package = pytest.mark.parametrize("package", [httpx, httpx2], ids=lambda package: package.__name__)


@each_package
def test_nothing_is_patched_without_hosts(package: Any, url: str, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    assert not hasattr(package.Client.send, "__wrapped__")
    assert not hasattr(package.AsyncClient.send, "__wrapped__")
    package.post(url, json=BODY).raise_for_status()
    assert scheduling.seen.of(Submitted) == []


@each_package
def test_requests_that_are_no_calls_pass(package: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1, http_hosts="llm.example:8000,other.example")
    url = "http://llm.example:8000/v1/chat/completions"
    transport = package.MockTransport(lambda _: package.Response(200, json={}))
    with package.Client(transport=transport) as client:
        client.get(url)
        client.post(url, json=MESSAGES)
        client.post(url, json={"model": "gpt-5.5", "file": "a"})
        client.post(url, content=iter([b'{"model": "m", "messages": []}']))
        client.post("http://llm.example:8000/v1/messages/count_tokens", json=BODY)
        client.post("http://llm.example/v1/chat/completions", json=BODY)
        client.post("http://an.llm.example:8000/v1/chat/completions", json=BODY)
        assert scheduling.seen.of(Submitted) == []
        client.post(url, json=BODY)
        client.post("https://OTHER.example:9000/v1/chat/completions", json=BODY)
    scheduling.settled(2)


def test_call_of_sdk_is_scheduled_once(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1, http_hosts=HOST)
    with openai.OpenAI(api_key="fake", base_url=server.url("openai")) as client:
        client.chat.completions.create(**BODY)
        list(client.chat.completions.create(**STREAM))
    scheduling.settled(2)
    assert len(server.requests()) == 2


@each_package
def test_refusal_is_returned_and_counted(package: Any, url: str, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1, http_hosts=HOST)
    for status in (429, 503):
        server.throttle(1, status=status, retry_after=2)
        assert package.post(url, json=BODY).status_code == status
    scheduling.settled(2)
    assert [(event.status, event.retry_after) for event in scheduling.seen.of(Throttled)] == [(429, 2), (503, 2)]
    assert scheduling.seen.of(Spent) == []


@each_package
@pytest.mark.parametrize("reading", ["whole", "lines", "read", "raw"])
def test_stream_is_counted_however_it_is_read(
    reading: str, package: Any, url: str, server: LlmServer, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=1, http_hosts=HOST)
    server.configure(output_tokens=7)
    with package.Client() as client:
        if reading == "whole":
            client.post(url, json=STREAM)
        else:
            with client.stream("POST", url, json=STREAM) as response:
                read = {"lines": response.iter_lines, "read": response.iter_bytes, "raw": response.iter_raw}[reading]
                list(read())
            assert not vars(response).keys() & {"iter_bytes", "aiter_bytes", "iter_raw", "aiter_raw", "close"}
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    usage = spent.spending.usage
    assert usage is not None
    assert usage.estimated == (reading == "raw")
    if reading != "raw":
        assert (usage.input_tokens, usage.output_tokens) == (5, 7)


@pytest.mark.parametrize(("owner", "name", "calls"), [(adapter, "find_endpoint", 0), (HttpAdapter, "read_answer", 1)])
def test_fault_of_ours_lets_request_pass(
    owner: Any, name: str, calls: int, url: str, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(faults, "_logged", set())
    monkeypatch.setattr(owner, name, fail)
    scheduling = scheduled(capacity=1, http_hosts=HOST)
    assert httpx.post(url, json=BODY).status_code == 200
    assert len(scheduling.seen.of(Submitted)) == calls
    assert scheduling.active() == 0


@pytest.mark.parametrize(
    ("path", "body", "provider", "operation", "model", "replaceable"),
    [
        ("/v1/responses", {"model": "m", "input": "a"}, "openai", "chat", "m", True),
        ("/v1/completions", {"model": "m", "prompt": "a"}, "openai", "text_completion", "m", True),
        ("/v1/embeddings", {"model": "m", "input": "a"}, "openai", "embeddings", "m", True),
        ("/v1/messages", {"model": "m", "messages": []}, "anthropic", "chat", "m", True),
        ("/api/chat", {"model": "m", "messages": []}, HOST, "chat", "m", False),
        ("/v1beta/models/m:streamGenerateContent", {"contents": []}, HOST, "generate_content", "m", False),
        ("/openai/deployments/m/chat/completions", {"messages": []}, "openai", "chat", "m", False),
    ],
)
def test_endpoint_is_found_by_path_and_body(
    path: str, body: Any, provider: str, operation: str, model: str, replaceable: bool, scheduled: Scheduled
) -> None:
    scheduled(http_hosts=HOST)
    request = httpx.Request("POST", f"http://{HOST}{path}", json=body)
    found = HttpAdapter("httpx").describe_call(None, request)
    assert found is not None
    assert (found.provider, found.operation, found.model) == (provider, operation, model)
    assert (found.accepts_model is None) == replaceable


@each_package
def test_request_is_sent_with_another_model(package: Any) -> None:
    request = package.Request("POST", "http://a/v1/messages", json=BODY, headers={"x-key": "k"})
    other = HttpAdapter("httpx").with_model(request, "gpt-4.1-nano")
    assert type(other) is package.Request
    assert other.headers["content-length"] == str(len(other.content))
    assert other.headers["x-key"] == "k"
    assert b'"gpt-4.1-nano"' in other.content
    assert b'"gpt-5.5"' in request.content
