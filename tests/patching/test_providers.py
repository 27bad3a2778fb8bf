"""The provider of a call of OpenAI's SDK is the one that its base URL names."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from anthropic import Anthropic
from loco_otel_instrumentation.anthropic.adapter import AnthropicAdapter
from loco_otel_instrumentation.openai.adapter import OpenAIAdapter
from openai import APIConnectionError, AzureOpenAI, OpenAI
from openai._models import FinalRequestOptions

import loco_otel
from loco_otel._budgets.prices import Prices
from loco_otel._runtime import process
from loco_otel.events import Submitted, Usage
from loco_otel.patching.dialects import provider_hosts
from loco_otel.testing import RecordingListener

KNOWN = [
    ("https://api.openai.com/v1", "gpt-4o", "openai"),
    ("https://eu.api.openai.com/v1", "gpt-4o", "openai"),
    ("https://api.deepseek.com/v1", "deepseek-chat", "deepseek"),
    ("https://api.deepseek.com", "deepseek-chat", "deepseek"),
    ("https://API.Groq.com/openai/v1", "llama-3.3-70b-versatile", "groq"),
    ("https://api.x.ai/v1", "grok-4", "x_ai"),
    ("https://eu-west-1.api.x.ai/v1", "grok-4", "x_ai"),
    ("https://api.mistral.ai/v1", "mistral-large-latest", "mistral_ai"),
    ("https://api.perplexity.ai", "sonar", "perplexity"),
    ("https://generativelanguage.googleapis.com/v1beta/openai/", "gemini-2.5-flash", "gcp.gemini"),
    ("https://us-central1-aiplatform.googleapis.com/v1/x", "gemini-2.5-flash", "gcp.vertex_ai"),
    ("https://openrouter.ai/api/v1", "openai/gpt-4o", "openrouter"),
    ("https://api.together.xyz/v1", "meta-llama/Llama-3.3-70B-Instruct-Turbo", "together"),
    ("https://api.fireworks.ai/inference/v1", "deepseek-r1-0528", "fireworks"),
    ("https://myres.openai.azure.com/openai/v1/", "gpt-4o", "azure.ai.openai"),
    ("https://myres.services.ai.azure.com/openai/v1/", "gpt-4o", "azure.ai.openai"),
    ("https://api.anthropic.com/v1/", "claude-opus-5", "anthropic"),
    ("https://adb-1.azuredatabricks.net/serving-endpoints", "databricks-gemma-3-12b", "databricks"),
    ("https://api.novita.ai/openai", "baichuan/baichuan-m2-32b", "novita"),
    ("https://api.moonshot.ai/v1", "kimi-k2-0905-preview", "moonshot"),
]
OLLAMA = ["http://localhost:11434/v1", "http://192.168.1.7:11434/v1", "http://gpu.internal:11434/v1"]
UNKNOWN = [
    "http://127.0.0.1:8000/v1",
    "https://api.deepseek.com.proxy.example/v1",
    "https://notapi.x.ai.example/v1",
    "https://openai.azure.com.example/v1",
]


def describe(client: Any, model: str = "gpt-4o") -> Any:
    options = FinalRequestOptions(method="post", url="/chat/completions", json_data={"model": model, "messages": []})
    return OpenAIAdapter().describe_call(client, options)


@pytest.mark.parametrize(("url", "model", "provider"), KNOWN)
def test_known_host_names_its_provider_and_price(url: str, model: str, provider: str) -> None:
    with OpenAI(api_key="fake", base_url=url) as client:
        first, second = describe(client, model), describe(client, model)
    assert first.provider == second.provider == provider
    cost = Prices().compute_cost(provider, (model,), Usage(1_000_000, 1_000_000), host=first.url.host).usd
    by_provider = Prices().compute_cost(provider, (model,), Usage(1_000_000, 1_000_000)).usd
    assert cost
    assert by_provider == cost


@pytest.mark.parametrize("url", OLLAMA)
def test_port_of_ollama_names_it_and_costs_nothing(url: str) -> None:
    with OpenAI(api_key="fake", base_url=url) as client:
        assert describe(client).provider == "ollama"
    assert Prices().compute_cost("ollama", ("gpt-4o",), Usage(1_000_000, 1_000_000)).usd == 0


@pytest.mark.parametrize(("port", "provider"), [(8000, "vllm"), (8001, "sglang"), (9000, "other"), (None, "other")])
def test_entry_with_a_port_is_for_that_port(port: int | None, provider: str) -> None:
    table = {"gpu.*": "other", "gpu.internal:8000": "vllm", "gpu.*:8001": "sglang"}
    url = httpx.URL("http://gpu.internal/v1" if port is None else f"http://gpu.internal:{port}/v1")
    assert provider_hosts.find_configured_provider(table, url) == provider


@pytest.mark.parametrize("url", UNKNOWN)
def test_unknown_host_is_openai(url: str) -> None:
    with OpenAI(api_key="fake", base_url=url) as client:
        assert describe(client).provider == "openai"


def test_known_host_names_the_provider_of_anthropics_protocol() -> None:
    options = FinalRequestOptions(method="post", url="/v1/messages", json_data={"model": "m", "messages": []})
    for url, provider in (
        ("https://api.anthropic.com", "anthropic"),
        ("https://api.deepseek.com/anthropic", "deepseek"),
        ("http://127.0.0.1:8000", "anthropic"),
    ):
        with Anthropic(api_key="fake", base_url=url) as client:
            description = AnthropicAdapter().describe_call(client, options)
        assert description is not None
        assert description.provider == provider


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.*", "127.*"])
def test_setting_names_the_provider_of_a_host(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loco.toml").write_text(f'[providers]\n"{host}" = "openrouter"\n"*.else" = "groq"\n')
    monkeypatch.setenv("LOCO_CONFIG", str(tmp_path / "loco.toml"))
    listener = RecordingListener()
    loco_otel.install()
    try:
        process.get_runtime().engine.add_listener(listener)
        client = OpenAI(api_key="fake", base_url="http://127.0.0.1:1/v1", max_retries=0)
        with client, pytest.raises(APIConnectionError):
            client.chat.completions.create(model="m", messages=[])
    finally:
        loco_otel.uninstall()
    assert [event.ticket.request.provider for event in listener.of(Submitted)] == ["openrouter"]
    assert [event.ticket.request.resources for event in listener.of(Submitted)] == [("openrouter/127.0.0.1:1",)]


def test_class_of_azure_decides_behind_a_gateway() -> None:
    with AzureOpenAI(api_key="fake", azure_endpoint="https://api.groq.com", api_version="v1") as client:
        assert describe(client).provider == "azure.ai.openai"


def test_changed_base_url_names_the_new_provider() -> None:
    with OpenAI(api_key="fake", base_url="https://api.x.ai/v1") as client:
        assert describe(client).provider == "x_ai"
        client.base_url = "https://api.groq.com/openai/v1"
        assert describe(client).provider == "groq"


def test_many_base_urls_are_evicted() -> None:
    urls = [httpx.URL("https://api.x.ai/v1") for _ in range(200)]
    assert {provider_hosts.find_provider(url) for url in urls} == {"x_ai"}
    assert len(provider_hosts._provider_by_url) <= provider_hosts._MAX_URLS
