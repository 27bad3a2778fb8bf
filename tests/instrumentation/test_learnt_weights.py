"""Calls of an agent weigh what its calls have really taken, listened to or not."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sdk_calls import CHAT, PROMPT, Sdk, each, each_sdk, now, opened
from sdk_scheduling import Scheduled
from sdk_server import LlmServer

import loco_otel
from loco_otel._config.settings import Settings
from loco_otel._runtime import process
from loco_otel._runtime.runtime import Runtime
from loco_otel.events import MILLI, Granted, Spent

SHORT = "Yes."
LONG = "It depends on the tide, the wind and the harbour master. " * 400
CALLS = 3


def answer(server: LlmServer, text: str, **more: object) -> None:
    """Let the server answer everything with a text from now on."""
    server.reset()
    server.script({"type": "reply", "text": text, "times": None, **more})


async def ask(sdk: Sdk, server: LlmServer) -> None:
    async with opened(sdk.client(server)) as client:
        await now(sdk.ask(client))


async def ask_raw(sdk: Sdk, server: LlmServer) -> None:
    async with opened(sdk.client(server)) as client:
        create = sdk.raw(client).create
        await now((await now(create(**_body(sdk)))).parse())


async def stream(sdk: Sdk, server: LlmServer) -> None:
    wishes = {"stream_options": {"include_usage": True}} if sdk.name == "openai" else {}
    async with opened(sdk.client(server)) as client:
        async for _ in each(await now(sdk.stream(client, **wishes))):
            pass


async def respond(sdk: Sdk, server: LlmServer) -> None:
    async with opened(sdk.client(server)) as client:
        async for _ in each(await now(client.responses.create(model="gpt-4o", input=PROMPT, stream=True))):
            pass


def _body(sdk: Sdk) -> Mapping[str, Any]:
    return CHAT if sdk.name == "openai" else {**CHAT, "model": "claude-sonnet-5", "max_tokens": 64}


Way = Callable[[Sdk, LlmServer], Any]
each_way = pytest.mark.parametrize("way", [ask, ask_raw, stream])


def make_calls(way: Way, sdk: Sdk, server: LlmServer) -> None:
    for agent, text in (("terse", SHORT), ("verbose", LONG)):
        answer(server, text)
        for _ in range(CALLS):
            with loco_otel.as_agent(agent):
                sdk.run(way(sdk, server))


@each_way
@each_sdk
def test_an_agent_whose_answers_are_long_becomes_the_heavier(
    sdk: Sdk, way: Way, server: LlmServer, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=1)
    make_calls(way, sdk, server)

    scheduling.settled(2 * CALLS)
    granted = [event.ticket.request for event in scheduling.seen.of(Granted)]
    weights = {
        agent: [request.weight for request in granted if request.agent == agent] for agent in ("terse", "verbose")
    }
    light = weights["terse"][0]
    assert weights["terse"] == [light] * CALLS
    # The first is granted as if its answer were nothing; whoever has seen it knows better.
    first, *rest = weights["verbose"]
    assert first == light
    assert min(rest) > 2 * light
    assert all(weight % MILLI == 0 for weight in rest)
    assert len(set(rest)) == 1
    # The settlement corrects it at once.
    spent = [event.spending.weight for event in scheduling.seen.of(Spent) if event.ticket.request.agent == "verbose"]
    assert spent == [rest[0]] * CALLS
    assert [span.attributes["loco.task.weight"] for span in scheduling.spans("acquire") if span.attributes] == [
        request.weight / MILLI for request in granted
    ]


@pytest.fixture
def unobserved(monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    """Patch the SDKs where nobody listens, and there is a limit."""
    monkeypatch.setenv("LOCO_CAPACITY", "4")
    runtime = process.get_runtime()
    monkeypatch.setattr(runtime, "detect_otel_sdk", lambda: None)  # another test may have set up a global one
    loco_otel.install()
    assert not runtime.engine.observed
    yield runtime
    loco_otel.uninstall()


def learnt_of(runtime: Runtime, agent: str, model: str) -> int:
    expected = runtime.averages.predict_usage(agent, model, 10)
    assert expected.learnt
    return expected.output_tokens


@each_way
@each_sdk
def test_it_is_learnt_without_an_opentelemetry_sdk_too(
    sdk: Sdk, way: Way, server: LlmServer, unobserved: Runtime
) -> None:
    make_calls(way, sdk, server)

    assert not unobserved.engine.observed
    model = str(_body(sdk)["model"])
    assert learnt_of(unobserved, "terse", model) < 10
    assert learnt_of(unobserved, "verbose", model) > 2000


@pytest.mark.parametrize("is_async", [False, True])
def test_the_responses_api_is_learnt_of_without_an_opentelemetry_sdk(
    is_async: bool, server: LlmServer, unobserved: Runtime
) -> None:
    make_calls(respond, Sdk("openai", is_async=is_async), server)

    assert learnt_of(unobserved, "terse", "gpt-4o") < 10
    assert learnt_of(unobserved, "verbose", "gpt-4o") > 2000


def test_nothing_is_learnt_where_nobody_waits_and_nobody_listens(server: LlmServer, unobserved: Runtime) -> None:
    loco_otel.configure(capacity=None)
    make_calls(ask, Sdk("openai", is_async=False), server)
    assert not unobserved.averages.predict_usage("verbose", "gpt-4o", 10).learnt

    loco_otel.configure(capacity=4)
    make_calls(ask, Sdk("openai", is_async=False), server)
    assert learnt_of(unobserved, "verbose", "gpt-4o") > 2000


@each_sdk
def test_a_fixed_weight_is_never_corrected(
    sdk: Sdk, server: LlmServer, scheduled: Scheduled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "loco.toml"
    path.write_text('[weights]\n"*" = 2.5\n')
    scheduling = scheduled(config=path)
    make_calls(ask, sdk, server)

    scheduling.settled(2 * CALLS)
    assert {event.ticket.request.weight for event in scheduling.seen.of(Granted)} == {2500}
    assert {event.spending.weight for event in scheduling.seen.of(Spent)} == {2500}


def test_what_was_broken_off_teaches_nothing_and_keeps_the_weight_of_its_grant(
    server: LlmServer, scheduled: Scheduled
) -> None:
    sdk = Sdk("anthropic", is_async=False)
    answer(server, LONG)
    scheduling = scheduled()
    with loco_otel.as_agent("verbose"), sdk.client(server) as client, sdk.stream(client) as events:
        for event in events:
            if event.type == "content_block_delta":
                break

    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage is not None
    assert spent.spending.usage.estimated
    assert spent.spending.weight == spent.ticket.request.weight
    assert not scheduling.runtime.averages.predict_usage("verbose", "claude-sonnet-5", 10).learnt


def test_a_new_runtime_knows_nothing_and_other_settings_forget_nothing(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled()
    make_calls(ask, Sdk("openai", is_async=False), server)

    loco_otel.configure(capacity=3)
    assert process.get_runtime().averages.predict_usage("terse", "gpt-4o", 10).learnt
    scheduling.settled(2 * CALLS)
    fresh = process.replace_runtime(Settings.load({}))
    assert fresh is not None
    assert not fresh.averages.predict_usage("terse", "gpt-4o", 10).learnt
