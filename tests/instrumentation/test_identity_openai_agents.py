"""Calls of the OpenAI Agents SDK queue under their agents' names, through the real framework."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import agents
import pytest
from agents import Agent, OpenAIChatCompletionsModel, RunConfig, Runner
from agents.tracing.scope import Scope
from sdk_scheduling import Scheduled, Scheduling
from sdk_server import LlmServer

from loco_otel._runtime import agent_readers
from loco_otel._runtime.identity import Identity, resolve_identity
from loco_otel.events import Submitted

Make = Callable[..., Agent[Any]]


@pytest.fixture(params=[False, True], ids=["traced", "untraced"])
def without_tracing(request: pytest.FixtureRequest) -> Iterator[bool]:
    agents.set_trace_processors([])
    agents.set_tracing_disabled(request.param)
    yield request.param
    agents.set_tracing_disabled(False)


def names(scheduling: Scheduling) -> Counter[str]:
    return Counter(event.ticket.request.agent for event in scheduling.seen.of(Submitted))


def run(server: LlmServer, main: Callable[[Make, Any], Coroutine[Any, Any, None]]) -> None:
    """Run a program with a maker of agents, and the client that they share."""

    async def with_client() -> None:
        async with server.async_openai(max_retries=0) as client:

            def make(name: str, **options: Any) -> Agent[Any]:
                return Agent(name=name, model=OpenAIChatCompletionsModel("gpt-4o-mini", client), **options)

            await main(make, client)

    asyncio.run(with_client())


async def ask(client: Any) -> None:
    await client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}])


@pytest.mark.usefixtures("without_tracing")
def test_parallel_runs_queue_under_their_agents(scheduled: Scheduled, server: LlmServer) -> None:
    scheduling = scheduled(capacity=1)

    async def main(make: Make, client: Any) -> None:
        await asyncio.gather(Runner.run(make("poet"), "hello"), Runner.run(make("critic"), "hello"))
        await ask(client)

    run(server, main)
    scheduling.settled(3)
    assert names(scheduling) == {"poet": 1, "critic": 1, "unknown": 1}


@pytest.mark.usefixtures("without_tracing")
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_handoff_changes_the_name(scheduled: Scheduled, server: LlmServer, *, streamed: bool) -> None:
    scheduling = scheduled(capacity=1)
    # The server calls any tool that is offered: here the handoff.

    async def main(make: Make, client: Any) -> None:
        triage = make("triage", handoffs=[make("expert")])
        if streamed:
            await drain(Runner.run_streamed(triage, "hello").stream_events())
        else:
            await Runner.run(triage, "hello")
        await ask(client)

    run(server, main)
    scheduling.settled(3)
    assert names(scheduling) == {"triage": 1, "expert": 1, "unknown": 1}


async def drain(events: AsyncIterator[object]) -> None:
    async for _ in events:
        pass


@pytest.mark.usefixtures("without_tracing")
def test_workflow_and_group_come_from_the_trace(
    scheduled: Scheduled, server: LlmServer, *, without_tracing: bool
) -> None:
    scheduled(capacity=1)
    seen: list[Identity] = []

    def instructions(_: object, __: object) -> str:
        seen.append(resolve_identity("default"))
        return "write"

    async def main(make: Make, _: Any) -> None:
        agent = make("poet", instructions=instructions)
        await Runner.run(agent, "hello")
        await Runner.run(agent, "hello", run_config=RunConfig(workflow_name="poems", group_id="g-1"))

    run(server, main)
    named = Identity("poet") if without_tracing else Identity("poet", workflow="poems", session="g-1")
    assert [identity._replace(run=None) for identity in seen] == [Identity("poet"), named]
    # A run of the SDK is one of ours, with tracing disabled too.
    assert len({identity.run for identity in seen} - {None}) == 2


def test_changed_framework_costs_the_name_alone(
    scheduled: Scheduled, server: LlmServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    agents.set_trace_processors([])
    scheduling = scheduled(capacity=1)
    monkeypatch.setattr(agent_readers, "faults", {})
    monkeypatch.setattr(agents.AgentSpanData, "type", property(lambda _: 1 / 0))

    async def main(make: Make, _: Any) -> None:
        agents.set_tracing_disabled(True)
        await Runner.run(make("poet"), "hello")
        await Runner.run(make("poet"), "hello")

    try:
        run(server, main)
    finally:
        agents.set_tracing_disabled(False)
    scheduling.settled(2)
    assert names(scheduling) == {"unknown": 2}
    assert agent_readers.faults == {"openai_agents": "ZeroDivisionError: division by zero"}
    assert len([record for record in caplog.records if record.name == "loco_otel"]) == 1


def test_uninstall_removes_the_hooks(scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    assert "openai_agents" in [reader.name for reader in agent_readers.readers]
    scheduling.close()
    assert agent_readers.readers == ()
    assert not hasattr(vars(Scope)["set_current_span"], "_self_wrapper")
