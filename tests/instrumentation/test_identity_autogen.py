"""Teams of AutoGen on a runtime that they share: each is one run, with one workflow, and the limits of runs hold."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core import SingleThreadedAgentRuntime
from autogen_ext.models.openai import OpenAIChatCompletionClient
from loco_otel_instrumentation.identity import autogen
from sdk_scheduling import Scheduled
from sdk_server import KEY, LlmServer

from loco_otel.events import Rejected, Submitted

MODEL = "gpt-4o-mini-2024-07-18"


@asynccontextmanager
async def run_runtime() -> AsyncIterator[SingleThreadedAgentRuntime]:
    runtime = SingleThreadedAgentRuntime()
    runtime.start()
    try:
        yield runtime
    finally:
        await runtime.stop()


def create_team(
    name: str, client: OpenAIChatCompletionClient, runtime: SingleThreadedAgentRuntime | None, messages: int
) -> RoundRobinGroupChat:
    agents = [AssistantAgent(agent, client) for agent in ("poet", "critic")]
    return RoundRobinGroupChat(
        list(agents), name=name, runtime=runtime, termination_condition=MaxMessageTermination(messages)
    )


@pytest.mark.parametrize("is_shared", [True, False], ids=["shared runtime", "own runtime"])
def test_limits_hold_for_a_team(scheduled: Scheduled, server: LlmServer, is_shared: bool) -> None:
    scheduling = scheduled(capacity=1, run_limits="calls=3")

    async def main() -> None:
        client = OpenAIChatCompletionClient(model=MODEL, api_key=KEY, base_url=server.url("openai"), max_retries=0)
        async with run_runtime() as runtime:
            team = create_team("newsroom", client, runtime if is_shared else None, 6)
            with pytest.raises(RuntimeError, match="BudgetExceededError"):
                await team.run(task="hello")
        await client.close()

    asyncio.run(main())
    scheduling.settled(4)
    requests = [event.ticket.request for event in scheduling.seen.of(Submitted)]
    assert [request.agent for request in requests] == ["poet", "critic", "poet", "critic"]
    assert {request.workflow for request in requests} == {"newsroom"}
    assert len({request.run for request in requests}) == 1
    assert len(scheduling.seen.of(Rejected)) == 1


def test_teams_and_their_repetitions_on_one_runtime_are_runs(scheduled: Scheduled, server: LlmServer) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        client = OpenAIChatCompletionClient(model=MODEL, api_key=KEY, base_url=server.url("openai"), max_retries=0)
        async with run_runtime() as runtime:
            teams = [create_team(name, client, runtime, 3) for name in ("newsroom", "theatre")]
            await asyncio.gather(*(team.run(task="hello") for team in teams))
            await teams[0].reset()
            await teams[0].run(task="hello")
        await client.close()

    asyncio.run(main())
    scheduling.settled(6)
    runs: dict[tuple[str | None, str | None], int] = {}
    for event in scheduling.seen.of(Submitted):
        request = event.ticket.request
        key = (request.workflow, request.run)
        runs[key] = runs.get(key, 0) + 1
    assert sorted((workflow, calls) for (workflow, _), calls in runs.items()) == [
        ("newsroom", 2),
        ("newsroom", 2),
        ("theatre", 2),
    ]


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "dropped"])
def test_team_has_no_run_after_its_stream(scheduled: Scheduled, server: LlmServer, is_closed: bool) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        client = OpenAIChatCompletionClient(model=MODEL, api_key=KEY, base_url=server.url("openai"), max_retries=0)
        async with run_runtime() as runtime:
            team = create_team("newsroom", client, runtime, 2)
            stream = team.run_stream(task="hello")
            await anext(stream)
            assert autogen._streams[team._team_id].identity.workflow == "newsroom"
            if is_closed:
                await stream.aclose()
                assert autogen._streams[team._team_id].identity is None
            else:
                del stream
                assert team._team_id not in autogen._streams
            await runtime.stop_when_idle()
            runtime.start()
        await client.close()

    asyncio.run(main())
    scheduling.settled(1)
