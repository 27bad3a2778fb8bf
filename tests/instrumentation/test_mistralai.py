"""What Mistral's SDK has beside the conformance suite: conversations, other operations, its own spans, its clouds."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import server_fixtures
from echo_server import EchoServer
from llm_server import LlmServer
from mistral_clients import MistralClient
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sdk_scheduling import Scheduled
from sdk_versions import since

from loco_otel.events import Spent, Submitted, Usage

PROMPT = "tell me about the harbour"
MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": PROMPT}]

mistral = server_fixtures.server


@pytest.fixture
def client(mistral: LlmServer) -> Iterator[Any]:
    made = MistralClient(base_url=mistral.url("mistral"), repeats=False)
    yield made.real
    made.close()


RESPONSE: dict[str, Any] = {
    "id": "resp_0",
    "object": "response",
    "created_at": 1,
    "model": "mistral-large-latest",
    "status": "completed",
    "output": [],
    "tools": [],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "usage": {
        "input_tokens": 12,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 19,
    },
}


@since("mistralai", "3.7")
@pytest.mark.parametrize("streamed", [False, True])
def test_response_is_scheduled_and_counted(streamed: bool, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    with EchoServer() as echo:
        client = MistralClient(base_url=echo.url, repeats=False)
        request: dict[str, Any] = {"model": "mistral-large-latest", "input": PROMPT}
        if streamed:
            reply: Any = [{"type": "response.completed", "sequence_number": 1, "response": RESPONSE}]
            list(client.real.responses.create(**request, stream=True, additional_properties={"reply": reply}))
        else:
            client.real.responses.create(**request, additional_properties={"reply": RESPONSE})
        client.close()
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage == Usage(12, 7, cache_read_tokens=4, reasoning_tokens=3)
    assert (spent.spending.model, spent.spending.response_id) == ("mistral-large-latest", "resp_0")


@pytest.mark.parametrize("streamed", [False, True])
def test_conversation_counts_tokens_of_connectors(
    streamed: bool, mistral: LlmServer, client: Any, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=1)
    mistral.configure(output_tokens=7)
    conversations = client.beta.conversations
    if streamed:
        list(conversations.start_stream(model="mistral-large-latest", inputs=PROMPT))
    else:
        conversations.start(model="mistral-large-latest", inputs=PROMPT)
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage == Usage(5 + 3, 7, False)
    (span,) = scheduling.spans("chat ")
    attributes = span.attributes or {}
    assert attributes["gen_ai.response.id"] == "conv_0"
    assert attributes["gen_ai.response.model"] == "mistral-large-latest"


@pytest.mark.parametrize("streamed", [False, True])
def test_agents_and_fim_are_scheduled(streamed: bool, client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    if streamed:
        list(client.agents.stream(agent_id="agent", messages=MESSAGES))
        list(client.fim.stream(model="codestral-latest", prompt=PROMPT))
    else:
        client.agents.complete(agent_id="agent", messages=MESSAGES)
        client.fim.complete(model="codestral-latest", prompt=PROMPT)
    scheduling.settled(2)
    assert [spent.spending.usage for spent in scheduling.seen.of(Spent)] == [
        Usage(5, 5, False, 0, None, 0),
        Usage(5, 5, False, 0, None, 0),
    ]
    assert len(scheduling.spans("chat")) == len(scheduling.spans("text_completion codestral-latest")) == 1


def test_models_and_files_pass_unscheduled(client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    for read in (client.models.list, client.files.list):
        with pytest.raises(Exception, match="404"):
            read()
    assert not scheduling.seen.of(Submitted)


def find_tracing_hook(client: Any) -> Any:
    hooks = client.sdk_configuration.__dict__["_hooks"].before_request_hooks
    return next(hook for hook in hooks if type(hook).__name__ == "TracingHook")


@pytest.mark.parametrize("sees", ["nobody", "program", "mistral"])
def test_call_has_one_inference_span_for_program(sees: str, client: Any, scheduled: Scheduled) -> None:
    telemetry = import_module("mistralai.extra.observability.telemetry")
    scheduling = scheduled(capacity=1)
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    if sees != "nobody":
        telemetry.configure_telemetry(client, provider=provider)
    if sees == "mistral":  # as the setting `dedicated` makes it, with an exporter to Mistral
        find_tracing_hook(client)._auto_telemetry_provider = provider
    client.chat.complete(model="m", messages=MESSAGES)
    list(client.chat.stream(model="m", messages=MESSAGES))
    scheduling.settled(2)
    theirs = [span for span in exporter.get_finished_spans() if "gen_ai.operation.name" in (span.attributes or {})]
    assert len(theirs) == (0 if sees == "nobody" else 2)
    waits = ["loco.wait.duration" in (span.attributes or {}) for span in theirs]
    assert set(waits) <= {sees == "program"}
    assert len(scheduling.spans("chat ")) == (0 if sees == "program" else 2)


@pytest.mark.parametrize("setting", ["global", "dedicated", None])
def test_settings_of_environment_are_read(
    setting: str | None, client: Any, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    if setting is not None:
        monkeypatch.setenv("MISTRAL_SDK_TELEMETRY", setting)
    provider = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    scheduling = scheduled(capacity=1)
    client.chat.complete(model="m", messages=MESSAGES)
    scheduling.settled(1)
    # With a provider of the program's, the SDK does not make one to send spans to Mistral.
    assert len(scheduling.spans("chat ")) == (0 if setting == "global" else 1)


def test_client_for_azure_is_scheduled(mistral: LlmServer, scheduled: Scheduled) -> None:
    azure = import_module("mistralai.azure.client")
    scheduling = scheduled(capacity=1)
    with azure.MistralAzure(api_key="fake", server_url=mistral.url("mistral")) as client:
        client.chat.complete(model="azureai", messages=MESSAGES)
    scheduling.settled(1)
    (span,) = scheduling.spans("chat ")
    assert (span.attributes or {})["gen_ai.provider.name"] == "azure.ai.inference"
