"""The Claude Agent SDK with a child process that calls models at the test server: one slot a turn."""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from contextvars import Context
from functools import wraps
from pathlib import Path
from typing import Any

import claude_agent_sdk
import openai
import pytest
import server_fixtures
from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, HookMatcher, ResultMessage
from llm_server import LlmServer
from loco_otel_instrumentation.claude_agent_sdk import hooks
from sdk_scheduling import Scheduled, Scheduling
from sdk_server import KEY

import loco_otel
from loco_otel._core.ticket import READING
from loco_otel._engine.in_process import InProcessEngine
from loco_otel.events import BudgetExceeded, Spent, Submitted, Throttled
from loco_otel.patching.call import Call

CLI = Path(__file__).parents[1] / "support" / "claude_cli.py"
MODEL = "claude-sonnet-4-5"


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in an event loop of its own."""

    @wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return run


server = server_fixtures.server


@pytest.fixture
def options(server: LlmServer, tmp_path: Path) -> ClaudeAgentOptions:
    program = tmp_path / "claude"
    program.write_text(f"#!{sys.executable} -SE\n{CLI.read_text()}")
    program.chmod(0o755)
    return ClaudeAgentOptions(cli_path=program, model=MODEL, env={"ANTHROPIC_BASE_URL": server.url("anthropic")})


def plan(**steps: object) -> str:
    return json.dumps(steps)


async def run_query(options: ClaudeAgentOptions, prompt: str = "tell") -> ResultMessage:
    """Return the result of one turn of `query`, read to its end."""
    found = None
    async for message in claude_agent_sdk.query(prompt=prompt, options=options):
        found = message if isinstance(message, ResultMessage) else found
    assert found is not None
    return found


async def run_turn(client: ClaudeSDKClient, prompt: str = "tell") -> ResultMessage:
    """Return the result of one turn of a connected client."""
    await client.query(prompt)
    *_, last = [message async for message in client.receive_response()]
    assert isinstance(last, ResultMessage)
    return last


async def run_client(options: ClaudeAgentOptions, prompt: str = "tell") -> None:
    async with ClaudeSDKClient(options) as client:
        await run_turn(client, prompt)
        await run_turn(client, prompt)


def read_spending(scheduling: Scheduling) -> list[Any]:
    return [spent.spending for spent in scheduling.seen.of(Spent)]


@in_loop
async def test_turns_hold_one_slot_each(server: LlmServer, options: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=2)
    server.configure(delay=0.02)
    prompt = plan(requests=2)
    await asyncio.gather(*(run_query(options, prompt) for _ in range(4)), *(run_client(options, prompt) for _ in "ab"))
    scheduling.settled(8)
    assert server.peak() == 2
    assert len(server.requests()) == 16


@in_loop
async def test_usage_and_charge_are_those_of_each_turn(options: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    async with ClaudeSDKClient(options) as client:
        for requests in (1, 3):
            await run_turn(client, plan(requests=requests))
    await run_query(options)
    scheduling.settled(3)
    first, second, third = read_spending(scheduling)
    assert [each.usd for each in (first, second, third)] == [10_000, 30_000, 10_000]
    assert second.usage.output_tokens == 3 * first.usage.output_tokens == 15
    assert second.usage.input_tokens > first.usage.input_tokens > 0
    assert not second.usage.estimated
    (span, *_) = scheduling.spans("invoke_agent")
    attributes = span.attributes or {}
    assert attributes["gen_ai.operation.name"] == "invoke_agent"
    assert attributes["gen_ai.provider.name"] == "anthropic"
    assert attributes["gen_ai.response.model"] == MODEL
    assert attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert len(scheduling.spans("invoke_agent")) == 3


@in_loop
async def test_slot_is_free_once_the_result_is_read(options: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    async with aclosing(claude_agent_sdk.query(prompt="tell", options=options)) as messages:  # type: ignore[type-var]
        async for message in messages:
            assert scheduling.active() == (not isinstance(message, ResultMessage))
    scheduling.settled(1)


@in_loop
async def test_query_has_no_child_while_it_waits(server: LlmServer, options: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    async with loco_otel.slot():
        # In a context of its own, so that it is not covered by the slot.
        turn = asyncio.get_running_loop().create_task(run_query(options), context=Context())
        await scheduling.seen.await_event(Submitted, 2)
        assert (scheduling.waiting(), len(server.requests())) == (1, 0)
    await turn
    scheduling.settled(2)


@pytest.mark.parametrize("form", ["query", "client"])
@in_loop
async def test_call_of_a_hook_shares_the_only_slot(
    form: str, server: LlmServer, options: Any, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=1)

    async def call_model(*_: Any) -> Any:
        async with openai.AsyncOpenAI(api_key=KEY, base_url=server.url("openai")) as other:
            await other.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        return {}

    options.hooks = {"PreToolUse": [HookMatcher(hooks=[call_model])]}
    with loco_otel.as_agent("analyst"):
        if form == "query":
            await run_query(options, plan(hook=True))
        else:
            async with ClaudeSDKClient(options) as client:
                with loco_otel.as_agent("writer"):
                    await run_turn(client, plan(hook=True))
    scheduling.settled(2)
    agents = {event.ticket.request.agent for event in scheduling.seen.of(Submitted)}
    assert agents == {"analyst" if form == "query" else "writer"}
    assert server.peak() == 1


@in_loop
async def test_prompt_within_a_turn_takes_no_second_slot(options: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    async with ClaudeSDKClient(options) as client:
        await client.query("first")
        await client.query("second")
        results = 0
        async for message in client.receive_messages():
            results += isinstance(message, ResultMessage)
            if results == 2:
                break
    # The child begins the second by itself.
    scheduling.settled(2)
    assert [each.usd for each in read_spending(scheduling)] == [10_000, 10_000]


@in_loop
async def test_turn_that_the_child_begins_has_a_slot(options: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def list_prompts() -> Any:
        yield {"type": "user", "message": {"role": "user", "content": plan(continues=True)}}

    async with aclosing(claude_agent_sdk.query(prompt=list_prompts(), options=options)) as messages:  # type: ignore[type-var]
        assert sum([isinstance(message, ResultMessage) async for message in messages]) == 2
    scheduling.settled(2)


@in_loop
async def test_turns_that_end_early_leave_nothing(server: LlmServer, options: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=2)
    # Left after the first message.
    async with aclosing(claude_agent_sdk.query(prompt=plan(requests=2), options=options)) as messages:  # type: ignore[type-var]
        await anext(messages)
    # The child ends without a result.
    with pytest.raises(Exception, match="exit code 3"):
        await run_query(options, plan(dies=True))
    # Disconnected before anything was read.
    async with ClaudeSDKClient(options) as client:
        await client.query("tell")
        assert scheduling.active() == 1
    # Cancelled while the model answers.
    server.hold()
    turn = asyncio.create_task(run_query(options))
    await asyncio.to_thread(server.wait_for, held=1)
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    server.release()
    scheduling.settled(4)
    assert all(each is None or each.usage.estimated for each in read_spending(scheduling))


@in_loop
async def test_cancelled_reader_leaves_the_turn_open(server: LlmServer, options: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    async with ClaudeSDKClient(options) as client:
        server.hold()
        await client.query("tell")
        reader = asyncio.create_task(anext(client.receive_messages()))  # type: ignore[arg-type]
        await asyncio.to_thread(server.wait_for, held=1)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert scheduling.active() == 1
        server.release()
        async for _ in client.receive_response():
            pass
        assert scheduling.active() == 0
    scheduling.settled(1)
    assert not read_spending(scheduling)[0].usage.estimated


@in_loop
async def test_turn_is_read_while_one_of_several_readers_waits(
    server: LlmServer, options: Any, scheduled: Scheduled
) -> None:
    scheduled(capacity=1)
    async with ClaudeSDKClient(options) as client:
        server.hold()
        await client.query("tell")
        call = hooks._conversations[client]._call
        assert call is not None
        first, second, third = (asyncio.ensure_future(anext(client.receive_messages())) for _ in range(3))  # type: ignore[arg-type]
        await asyncio.to_thread(server.wait_for, held=1)
        assert call.ticket.idle_after == READING
        third.cancel()
        await asyncio.wait([third])
        assert call.ticket.idle_after == READING, "two are left"
        server.release()
        await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
        if not second.done():
            assert call.ticket.idle_after == READING, "one is left"
        await asyncio.wait([first, second])


@pytest.mark.parametrize("form", ["query", "client"])
@pytest.mark.parametrize("fault", ["claim_slot", "prepare_options", "touch_lease"])
@in_loop
async def test_turn_survives_a_fault_of_ours(
    fault: str, form: str, options: Any, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduling = scheduled(capacity=1)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(InProcessEngine if fault == "touch_lease" else Call, fault, fail)
    await (run_query(options) if form == "query" else run_client(options))
    assert scheduling.active() == 0


@in_loop
async def test_program_without_the_child_gets_its_error(options: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    options.cli_path = "/nowhere/claude"
    with pytest.raises(claude_agent_sdk.CLINotFoundError):
        await run_query(options)
    with pytest.raises(claude_agent_sdk.CLINotFoundError):
        await ClaudeSDKClient(options).connect("tell")
    scheduling.settled(2)
    assert scheduling.seen.of(Spent) == []


@in_loop
async def test_refused_turn_reports_throttling(server: LlmServer, options: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    server.throttle(1, status=529)
    assert (await run_query(options)).is_error
    scheduling.settled(1)
    assert [event.status for event in scheduling.seen.of(Throttled)] == [529]
    (span,) = scheduling.spans("invoke_agent")
    assert str((span.attributes or {})["error.type"]).endswith("TurnFailedError")


@in_loop
async def test_budget_rejects_and_downgrades_turns(server: LlmServer, options: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1, budgets="*=0.01")
    await run_query(options)
    with pytest.raises(loco_otel.BudgetExceededError):
        await run_query(options)
    with pytest.raises(loco_otel.BudgetExceededError):
        async with ClaudeSDKClient(options) as client:
            await client.query("tell")
    assert len(server.requests()) == 1
    assert scheduling.seen.of(BudgetExceeded)


def test_uninstall_leaves_the_sdk_as_it_was(scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    assert hasattr(ClaudeSDKClient.query, "__wrapped__")
    scheduling.close()
    assert not hasattr(ClaudeSDKClient.query, "__wrapped__")
