"""The Bedrock adapter with boto3's clients for models and agents, against a real server."""

import asyncio
import gc
import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from bedrock_clients import CREDENTIALS, REGION
from botocore.exceptions import ClientError
from library_callers import Run, Until
from llm_server import LlmServer
from loco_otel_instrumentation.botocore import BotocoreInstrumentor

import loco_otel
from loco_otel.adapters.aws_bedrock import BedrockAdapter, estimate_weight

OPUS = "anthropic.claude-opus-4-20250514-v1:0"
BODY = {"max_tokens": 64, "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def make_client(server: LlmServer) -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def make(service: str = "bedrock-runtime") -> Any:
        session = boto3.Session(region_name=REGION, **CREDENTIALS)
        made.append(session.client(service, endpoint_url=server.url()))
        return made[-1]

    yield make
    for client in made:
        client.close()


def test_d21_agent_is_invoked_with_alias_and_session(
    run: Run, settle: Until, server: LlmServer, scheduler: Any, make_client: Any
) -> None:
    made = scheduler()

    async def program() -> None:
        adapter = BedrockAdapter(made, client=make_client("bedrock-agent-runtime"))
        for _ in range(2):
            answer = await adapter.invoke("AGENT1", input_text="hello")
            assert made.resource.holder_count == 1
            parts = [event["chunk"]["bytes"] async for event in _read(answer["completion"])]
            assert b"".join(parts)
            assert made.resource.holder_count == 0
        await adapter.invoke("AGENT1", agentId="OTHER", agentAliasId="PROD", sessionId="s1", input_text="hi")

    run(program())
    gc.collect()
    first, second, third = [record.path for record in server.requests()]
    assert first == second
    assert first.startswith("/agents/AGENT1/agentAliases/TSTALIASID/sessions/")
    assert third == "/agents/OTHER/agentAliases/PROD/sessions/s1/text"
    assert made.metrics.completed_by_agent()["AGENT1"] == 2
    run(settle(lambda: not made.resource.engine.list_tickets()))
    made.get_agent("AGENT1").tasks.clear()  # of the dropped stream


@pytest.mark.parametrize("body", [None, BODY, json.dumps(BODY)])
def test_d21_models_are_called_at_capacity(
    run: Run, server: LlmServer, scheduler: Any, make_client: Any, body: Any
) -> None:
    made = scheduler(capacity=2)

    async def program() -> None:
        adapter = BedrockAdapter(made, client=make_client())
        server.hold()
        arguments = {"body": body} if body else {"input_text": "hello"}
        calls = [asyncio.create_task(adapter.invoke(f"a{n}", model_id=OPUS, **arguments)) for n in range(4)]
        # The loop runs while boto3 blocks.
        assert (await asyncio.to_thread(server.wait_for, in_progress=2)).received == 2
        server.release(4)
        answers = await asyncio.gather(*calls)
        assert all(answer["ResponseMetadata"]["HTTPStatusCode"] == 200 for answer in answers)

    run(program())
    assert server.peak() == 2
    assert {record.operation for record in server.requests()} == {"InvokeModel" if body else "Converse"}
    assert made.metrics.cost_by_agent() == {f"a{n}": 5.0 for n in range(4)}
    assert (made.metrics.total_actual_tokens() > 0) is (body is None)


def test_failed_call_frees_slot_and_costs_nothing(
    run: Run, server: LlmServer, scheduler: Any, make_client: Any
) -> None:
    made = scheduler()

    async def program() -> None:
        server.throttle(status=400)
        with pytest.raises(ClientError):
            await BedrockAdapter(made, client=make_client()).invoke("a", input_text="hello")

    run(program())
    assert made.metrics.cost_by_agent() == {}


def test_without_a_client_boto3_makes_one(
    run: Run, server: LlmServer, scheduler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {
        "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": server.url(),
        "AWS_DEFAULT_REGION": REGION,
        **{name.upper(): value for name, value in CREDENTIALS.items()},
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)

    async def program() -> None:
        adapter = BedrockAdapter(scheduler())
        answer = await adapter.invoke("auditor", input_text="hello")
        assert answer["output"]["message"]["content"][0]["text"]
        adapter._client.close()

    run(program())


def test_patched_call_runs_under_the_adapters_slot(run: Run, server: LlmServer, patched: Any, make_client: Any) -> None:
    patched(BotocoreInstrumentor())
    made = loco_otel.configure(capacity=1)

    async def program() -> None:
        await BedrockAdapter(made, client=make_client()).invoke("a", input_text="hello")

    run(program())
    assert (made.logical_tick, made.resource.holder_count) == (1, 0)


@pytest.mark.parametrize(
    ("model", "weight"), [(OPUS, 5.0), (f"us.{OPUS}", 5.0), ("meta.llama3-70b-instruct-v1:0", 3.0), ("unknown", 2.0)]
)
def test_weight_follows_the_model(model: str, weight: float) -> None:
    assert estimate_weight(model) == weight


async def _read(stream: Any) -> Any:
    for event in await asyncio.to_thread(list, stream):
        yield event
