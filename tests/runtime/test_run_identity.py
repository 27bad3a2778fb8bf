"""Which run a call belongs to: `as_agent`, the outermost framework, the trace, the session, or none."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from identity_readers import add_readers
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import loco_otel
from loco_otel import as_agent
from loco_otel._runtime.agent_readers import PartialIdentity, pop_identity, push_identity
from loco_otel._runtime.identity import resolve_identity
from loco_otel.patching import thread_context

TRACER = TracerProvider(shutdown_on_exit=False).get_tracer("program")


def find_run() -> str | None:
    return resolve_identity("default").run


@pytest.fixture
def pushed() -> Iterator[None]:
    """Run in a framework's run, as a hook of it pushes that."""
    key = object()
    push_identity(key, PartialIdentity(run="pushed"))
    yield
    pop_identity(key)


def test_no_source_is_no_run() -> None:
    assert find_run() is None
    with as_agent("a"):
        assert find_run() is None


def test_sources_are_asked_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    with as_agent("a", session="the session"):
        assert find_run() == "the session"
        with TRACER.start_as_current_span("root") as root:
            traced = trace.format_trace_id(root.get_span_context().trace_id)
            with TRACER.start_as_current_span("child"):
                assert find_run() == traced
            add_readers(monkeypatch, PartialIdentity(run="read"))
            assert find_run() == "read"
            with as_agent(run="explicit"):
                assert find_run() == "explicit"
                with as_agent("b"), as_agent(run="inner"):
                    assert find_run() == "inner"


def test_session_of_a_span_is_the_last_source() -> None:
    with TRACER.start_as_current_span("chat gpt-4o", attributes={"gen_ai.conversation.id": "c"}) as span:
        assert find_run() == trace.format_trace_id(span.get_span_context().trace_id)
        span.set_attribute("gen_ai.operation.name", "chat")
        assert find_run() == "c", "an inference span without a parent is one call"
        with TRACER.start_as_current_span("tool"):
            assert find_run() == trace.format_trace_id(span.get_span_context().trace_id)


@pytest.mark.usefixtures("pushed")
def test_run_of_the_outermost_framework_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    key = object()
    push_identity(key, PartialIdentity(agent="inner", run="inner"))
    add_readers(monkeypatch, PartialIdentity(agent="read", run="read"))
    found = resolve_identity("default")
    assert (found.agent, found.run) == ("read", "pushed")
    pop_identity(key)
    assert find_run() == "pushed"


def test_reader_around_a_push_keeps_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    add_readers(monkeypatch, PartialIdentity(run="trace of the outer framework"))
    key = object()
    push_identity(key, PartialIdentity(agent="node", run="of the inner one"))
    assert find_run() == "trace of the outer framework"
    pop_identity(key)


@pytest.mark.usefixtures("pushed")
def test_child_tasks_and_threads_belong_to_the_run() -> None:
    async def run() -> list[str | None]:
        async def child() -> str | None:
            return find_run()

        return await asyncio.gather(child(), asyncio.create_task(child()), asyncio.to_thread(find_run))

    assert asyncio.run(run()) == ["pushed"] * 3


@pytest.fixture
def propagated() -> Iterator[None]:
    user = object()
    thread_context.enable_propagation(user)
    yield
    thread_context.disable_propagation(user)


@pytest.mark.usefixtures("propagated")
def test_jobs_of_an_executor_belong_to_the_run_of_their_caller() -> None:
    with ThreadPoolExecutor(1) as pool:
        with TRACER.start_as_current_span("root") as root:
            traced = trace.format_trace_id(root.get_span_context().trace_id)
            assert pool.submit(find_run).result() == traced

            def nested() -> str | None:
                with TRACER.start_as_current_span("a root of the thread's own"):
                    return find_run()

            assert pool.submit(nested).result() == traced
            for names in ({"session": "s"}, {}):
                with as_agent("a", **names):
                    assert pool.submit(find_run).result() == traced
        assert pool.submit(find_run).result() is None
        with as_agent(run="r"):
            assert pool.submit(find_run).result() == "r"


def test_thread_of_the_program_has_no_run() -> None:
    found: list[str | None] = []
    with as_agent(run="r"):
        thread = threading.Thread(target=lambda: found.append(find_run()))
        thread.start()
        thread.join()
    assert found == [None]


def test_slot_and_dump_have_the_run() -> None:
    with as_agent("a", run="r-1", workflow="w", session="s", priority="background"), loco_otel.slot():
        dump = loco_otel.dump()
        (run,) = dump.as_dict()["runs"]
        assert run == {
            "run": "r-1",
            "agents": ["a"],
            "workflow": "w",
            "session": "s",
            "priority": "background",
            "holding": 1,
            "waiting": 0,
            "oldest_wait": 0.0,
            "weight": 1.0,
        }
        assert "r-1  a       w         background" in str(dump)
    assert loco_otel.dump().as_dict()["runs"] == []
