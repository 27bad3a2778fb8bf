"""OpenAI's SDK at the hosts of other providers: each call has its host's provider, usage, limits and price.

The server is the SDK's HTTP proxy, so that clients have the real base URLs. Other tests read usage and headers of any
origin; here is what each host sends, all at once.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from compatible_hosts import HOSTS, Host
from echo_server import EchoServer
from loco_otel_instrumentation.openai.adapter import OpenAIAdapter
from sdk_scheduling import Scheduled, Scheduling

from loco_otel.events import Spent, Throttled
from loco_otel.patching import UsageMeter

CALL: dict[str, Any] = {"messages": [{"role": "user", "content": "tell me about the harbour"}]}

PROVIDERS = """
[providers]
"vllm.internal:8000" = "vllm"
"""

each_host = pytest.mark.parametrize("host", HOSTS, ids=str)


@pytest.fixture(scope="module")
def echo() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


@pytest.fixture
def scheduling(echo: EchoServer, scheduled: Scheduled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scheduling:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, echo.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "loco.toml").write_text(PROVIDERS)
    return scheduled(config=tmp_path / "loco.toml", count_spend=True)


def check_call(host: Host, scheduling: Scheduling) -> None:
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.ticket.request.provider == host.provider
    assert spent.spending.usage == host.counted
    assert spent.spending.usd == host.compute_price()
    (span,) = scheduling.spans("chat ")
    attributes = span.attributes or {}
    assert attributes["gen_ai.provider.name"] == host.provider
    assert attributes["gen_ai.usage.input_tokens"] == host.counted.input_tokens
    assert attributes["gen_ai.usage.output_tokens"] == host.counted.output_tokens


@each_host
def test_whole_answer_is_counted_and_priced(host: Host, scheduling: Scheduling) -> None:
    with host.open_client() as client:
        client.chat.completions.create(**CALL, model=host.model, extra_body={"reply": host.build_answer()})
    check_call(host, scheduling)


@each_host
def test_stream_is_counted_and_priced(host: Host, scheduling: Scheduling) -> None:
    with host.open_client() as client:
        body = {"reply": host.build_stream()}
        text = [
            choice.delta.content or ""
            for chunk in client.chat.completions.create(**CALL, model=host.model, stream=True, extra_body=body)
            for choice in chunk.choices
        ]
    assert "".join(text) == "hello"
    check_call(host, scheduling)


@each_host
def test_refusal_states_limits_and_delay(host: Host, scheduling: Scheduling) -> None:
    error = host.error or {"error": {"message": "too many", "code": "rate_limit_exceeded"}}
    body = {"status": 429, "headers": dict(host.headers), "reply": error}
    if isinstance(error, list):
        body["reply"] = json.dumps(error)
    with host.open_client() as client, pytest.raises(openai.RateLimitError):
        client.chat.completions.create(**CALL, model=host.model, extra_body=body)
    scheduling.settled(1)
    (throttled,) = scheduling.seen.of(Throttled)
    assert throttled.ticket.request.provider == host.provider
    assert throttled.limits == host.limits
    assert throttled.retry_after == host.retry_after


@each_host
def test_usage_is_the_same_where_text_is_not_read(host: Host) -> None:
    meter = UsageMeter()
    for chunk in host.build_stream()[:-1]:
        OpenAIAdapter().read_usage(chunk, meter)
    assert meter.compute_usage(0) == host.counted
