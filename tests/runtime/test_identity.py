"""Agent, workflow and session: from the first source that has each."""

import contextvars
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from identity_readers import add_readers
from opentelemetry import baggage, context
from opentelemetry.sdk.trace import TracerProvider

import loco_otel
from loco_otel import as_agent, clock
from loco_otel._runtime import agent_readers
from loco_otel._runtime.agent_readers import PartialIdentity, pop_identity, push_identity
from loco_otel._runtime.identity import Identity, resolve_identity
from loco_otel.events import Priority


@contextmanager
def in_span(**attributes: str) -> Iterator[None]:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("framework")
    named = {f"gen_ai.{key.replace('_', '.')}": value for key, value in attributes.items()}
    with tracer.start_as_current_span("invoke_agent", attributes=named):
        yield


@contextmanager
def in_baggage(**values: str) -> Iterator[None]:
    carried = context.get_current()
    for key, value in values.items():
        carried = baggage.set_baggage(f"loco.{key}", value, carried)
    token = context.attach(carried)
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def pushed(*names: str | None) -> Iterator[None]:
    key = object()
    push_identity(key, PartialIdentity(*names))
    yield
    pop_identity(key)


def test_each_field_comes_from_its_first_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve() -> tuple[str, str | None, str | None]:
        found = resolve_identity("default")
        return found.agent, found.workflow, found.session

    add_readers(monkeypatch)
    assert resolve() == ("default", None, None)
    with in_baggage(workflow="w-baggage", session="s-baggage"):
        assert resolve() == ("default", "w-baggage", "s-baggage")
        with in_span(agent_name="a-span", workflow_name="w-span", conversation_id="s-span"):
            assert resolve() == ("a-span", "w-span", "s-span")
            first, second = add_readers(monkeypatch, PartialIdentity("a-read"), PartialIdentity("late", "w-read"))
            assert resolve() == ("a-read", "w-read", "s-span")
            with pushed("a-pushed"):
                assert resolve() == ("a-pushed", "w-read", "s-span")
                with as_agent("explicit", session="mine"):
                    assert resolve() == ("explicit", "w-read", "mine")
            assert first.reads == second.reads == 4  # the push reads too


def test_readers_are_not_called_once_all_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    (reader,) = add_readers(monkeypatch, PartialIdentity("read"))
    with as_agent("a", workflow="w", session="s", run="r"):
        assert resolve_identity("default") == Identity("a", None, None, "w", "s", "r")
    assert reader.reads == 0


def test_as_agent_without_an_agent_keeps_the_other_sources() -> None:
    with as_agent(run="r", priority="background"):
        assert resolve_identity("default") == Identity("default", run="r", priority=Priority.BACKGROUND)
        with in_span(agent_name="a-span"):
            assert resolve_identity("default") == Identity("a-span", run="r", priority=Priority.BACKGROUND)
        with as_agent("explicit", priority="interactive"), in_span(agent_name="a-span"):
            assert resolve_identity("default") == Identity("explicit", run="r", priority=Priority.INTERACTIVE)
    with as_agent("explicit"), as_agent(run="r"):
        assert resolve_identity("default") == Identity("explicit", run="r")


def test_nested_deadline_cannot_extend_the_outer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve() -> float | None:
        return resolve_identity("default").deadline

    now = [100.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    ten = as_agent(deadline=10)
    with ten:
        now[0] = 105.0
        with as_agent(run="r"):
            assert resolve() == 110.0
        with as_agent(deadline=2.5), in_span(agent_name="a"):
            assert resolve() == 107.5
        with ten:  # from each entering
            assert resolve() == 110.0
    with ten:
        assert resolve() == 115.0
    assert resolve() is None


def test_priority_of_baggage_is_used_if_it_is_one() -> None:
    with in_baggage(priority="background"):
        assert resolve_identity("default").priority is Priority.BACKGROUND
        with as_agent(priority="interactive"):
            assert resolve_identity("default").priority is Priority.INTERACTIVE
    with in_baggage(priority="urgent"):
        assert resolve_identity("default").priority is None


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("run", "", "run must be a non-empty string or None, not ''"),
        ("priority", "urgent", "priority must be one of interactive, normal, background or None, not 'urgent'"),
        ("deadline", -1, "deadline must be a number of seconds of at least 0 or None, not -1"),
        ("deadline", float("nan"), "deadline must be a number of seconds of at least 0 or None, not nan"),
        ("deadline", True, "deadline must be a number of seconds of at least 0 or None, not True"),
        ("deadline", "5", "deadline must be a number of seconds of at least 0 or None, not '5'"),
    ],
)
def test_as_agent_rejects_invalid_arguments(argument: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_agent("a", **{argument: value})


def test_slot_takes_run_priority_and_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "monotonic", lambda: 100.0)
    with as_agent(run="r", priority="background", deadline=5):
        for slot in (loco_otel.slot(), loco_otel.slot("explicit")):
            request = slot._request
            assert (request.run, request.priority, request.deadline) == ("r", Priority.BACKGROUND, 105.0)


@pytest.mark.parametrize("answer", [OSError("changed"), 42, "a name", PartialIdentity(42), PartialIdentity("a", [])])  # type: ignore[arg-type]
def test_reader_fault_costs_its_names_and_is_logged_once(
    answer: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add_readers(monkeypatch, answer, PartialIdentity(session="s"))
    assert [resolve_identity("default") for _ in range(2)] == [Identity("default", session="s", run="s")] * 2
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "from reader0" in record.getMessage()
    assert agent_readers.faults.keys() == {"reader0"}


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [("x" * 500, "x" * 200), ("a\ud800b", "a\ufffdb"), ("\ud83d\ude00", "\U0001f600"), ("", "default"), ("é", "é")],
)
def test_names_are_short_and_valid_unicode(monkeypatch: pytest.MonkeyPatch, name: str, cleaned: str) -> None:
    add_readers(monkeypatch, PartialIdentity(name))
    assert resolve_identity("default").agent == cleaned
    add_readers(monkeypatch)
    with pushed(name):
        assert resolve_identity("default").agent == cleaned


def test_as_agent_replaces_lone_surrogates() -> None:
    with as_agent("a\ud800", session="\udfff"):
        assert resolve_identity("default") == Identity("a\ufffd", session="\ufffd", run="\ufffd")


def test_pop_undoes_its_push_and_those_after_it() -> None:
    def resolve() -> str:
        return resolve_identity("default").agent

    outer, inner = object(), object()
    push_identity(outer, PartialIdentity("outer"))
    push_identity(inner, PartialIdentity("inner"))
    assert resolve() == "inner"
    contextvars.Context().run(pop_identity, inner)
    assert resolve() == "inner"
    pop_identity(outer)
    assert resolve() == "default"
    pop_identity(inner)
    assert resolve() == "default"


def test_reader_that_changes_within_a_push_is_inner(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve() -> tuple[str, str | None, str | None]:
        found = resolve_identity("default")
        return found.agent, found.workflow, found.session

    (reader,) = add_readers(monkeypatch, PartialIdentity("node", "graph", "thread"))
    with pushed("agent"):
        assert resolve() == ("agent", "graph", "thread")
        reader.answer = PartialIdentity("inner node", None, "inner thread")
        assert resolve() == ("inner node", "graph", "inner thread")
        with pushed("inner agent"):
            assert resolve() == ("inner agent", "graph", "inner thread")
        reader.answer = None
        assert resolve() == ("agent", "graph", "thread")
    assert resolve() == ("default", None, None)


def test_push_keeps_what_is_known_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    add_readers(monkeypatch)
    with pushed("agent", "workflow"), pushed(None, None, "session"):
        expected = Identity("agent", workflow="workflow", session="session", run="session")
        assert resolve_identity("default") == expected


def test_push_of_no_name_raises_and_changes_nothing() -> None:
    with pytest.raises(TypeError, match="agent must be a string, not int"):
        push_identity(object(), PartialIdentity(42))  # type: ignore[arg-type]
    assert resolve_identity("default") == Identity("default")
