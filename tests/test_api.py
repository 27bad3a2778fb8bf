"""What a program may call: its arguments, its identity, and what it gets."""

import asyncio
import gc
import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import mypy.api
import pytest
from identity_readers import add_readers
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider

import loco_otel
from loco_otel import AcquireRejectedError, LocoError, Settings, as_agent, slot
from loco_otel._runtime import entry_points, identity, process
from loco_otel._runtime.agent_readers import PartialIdentity
from loco_otel.events import Submitted
from loco_otel.testing import RecordingListener

# -- slot --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0, -1, 0.0, math.nan, math.inf, -math.inf, 1e9 + 1, 1e300])
def test_weight_is_a_finite_positive_number(weight: float) -> None:
    with pytest.raises(ValueError, match=r"^weight must be a number above 0 and at most 1000000000, not "):
        slot("a", weight=weight)


@pytest.mark.parametrize("timeout", [-1, -0.001, math.nan, -math.inf])
def test_negative_timeout_is_rejected(timeout: float) -> None:
    with pytest.raises(ValueError, match=r"^timeout must be a number of seconds of at least 0, not "):
        slot("a", timeout=timeout)


@pytest.mark.parametrize("name", ["", 7, b"a"])
@pytest.mark.parametrize("take", [slot, as_agent])
def test_agent_is_a_name(take: Callable[[Any], object], name: object) -> None:
    with pytest.raises(ValueError, match=r"^agent must be a non-empty string, not "):
        take(name)


@pytest.mark.parametrize(
    ("weight", "counted"), [(1, 1.0), (2.5, 2.5), (0.0001, 0.001), (1e-300, 0.001), (1e9, 1e9), (0.0004999, 0.001)]
)
def test_weight_counts_in_thousandths_and_never_as_zero(weight: float, counted: float) -> None:
    assert slot("a", weight=weight).weight == counted


@pytest.mark.parametrize("timeout", [0, 0.5, 10, math.inf])
def test_timeout_may_be_any_other_number(timeout: float) -> None:
    with slot("a", timeout=timeout) as held:
        assert held.waited_ticks == 0


def test_listeners_receive_what_is_requested() -> None:
    listener = RecordingListener()
    process.get_runtime().engine.add_listener(listener)
    with slot("a", weight=2, timeout=5, tenant="acme", task_type="summary", labels={"priority": "low"}):
        pass
    (event,) = listener.of(Submitted)
    request = event.ticket.request
    assert (request.agent, request.weight, request.timeout, request.tenant) == ("a", 2000, 5, "acme")
    assert (request.task_type, request.labels, request.resources) == ("summary", {"priority": "low"}, ("llm_api",))
    assert (request.provider, request.model, request.settles, request.admission) == (None, None, False, False)


def test_half_an_emoji_in_a_slots_names_becomes_valid() -> None:
    listener = RecordingListener()
    process.get_runtime().engine.add_listener(listener)
    with slot("caf\u00e9 \ud83d", tenant="t\ud83d", task_type="\ud83d"):
        pass
    (submitted,) = listener.of(Submitted)
    request = submitted.ticket.request
    assert (request.agent, request.tenant, request.task_type) == ("caf\u00e9 \ufffd", "t\ufffd", "\ufffd")


def test_rejection_is_an_error_of_the_package() -> None:
    assert issubclass(loco_otel.AcquireTimeoutError, TimeoutError)
    for name in ("AcquireTimeoutError", "BackpressureError", "ShutdownError", "BudgetExceededError"):
        assert issubclass(getattr(loco_otel, name), AcquireRejectedError)
    for name in ("AcquireRejectedError", "ConfigurationError"):
        assert issubclass(getattr(loco_otel, name), LocoError)


def test_snapshot_shows_the_holders() -> None:
    process.replace_runtime(Settings().changed(capacity=2))
    (standing,) = loco_otel.snapshot().resources
    assert (standing.resource, standing.capacity, standing.agents) == ("llm_api", 2, ())
    with slot("b"), slot("a"):
        (standing,) = loco_otel.snapshot().resources
        assert [(agent.agent, agent.active, agent.waiting) for agent in standing.agents] == [("a", 1, 0), ("b", 1, 0)]


# -- identity ----------------------------------------------------------------------------------------------------------


def me() -> str:
    return slot().agent


@pytest.fixture
def span() -> Iterator[Callable[[str], Any]]:
    """Make a span of an agent framework the current one."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("framework")
    return lambda name: tracer.start_as_current_span("invoke_agent", attributes={"gen_ai.agent.name": name})


def test_nearest_source_of_a_name_wins(monkeypatch: pytest.MonkeyPatch, span: Callable[[str], Any]) -> None:
    assert me() == "unknown"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "service")
    process.replace_runtime(None)
    assert me() == "service"
    loco_otel.configure(agent_id="configured")
    assert me() == "configured"
    with span("of the span"):
        assert me() == "of the span"
        add_readers(monkeypatch, None, PartialIdentity(""), PartialIdentity("read"), PartialIdentity("too late"))
        assert me() == "read"
        with as_agent("explicit"):
            assert me() == "explicit"
            assert slot("given").agent == "given"
        assert me() == "read"


def test_span_without_an_agent_names_none(span: Callable[[str], Any]) -> None:
    with span(""):
        assert me() == "unknown"
    with TracerProvider(shutdown_on_exit=False).get_tracer("any").start_as_current_span("work"):
        assert me() == "unknown"
    with trace.use_span(trace.NonRecordingSpan(trace.INVALID_SPAN_CONTEXT)):
        assert me() == "unknown"


def test_tenant_comes_with_the_agent_unless_given() -> None:
    def tenant(*args: str, **options: str) -> str | None:
        return slot(*args, **options)._request.tenant

    assert tenant() is None
    with as_agent("a", tenant="acme"):
        assert tenant() == "acme"
        assert tenant(tenant="other") == "other"
        assert tenant("b") is None
        with as_agent("inner"):
            assert tenant() == "acme"


def test_payer_comes_with_the_agent_or_from_baggage() -> None:
    carried = baggage.set_baggage("loco.team", "blue", baggage.set_baggage("loco.session", 4711))
    token = context.attach(carried)
    try:
        assert identity.resolve_identity("me")[:5] == ("me", None, "blue", None, "4711")
        with as_agent("a", team="red", workflow="nightly"):
            assert identity.resolve_identity("me")[:5] == ("a", None, "red", "nightly", "4711")
            with as_agent("b", tenant="acme"):
                assert identity.resolve_identity("me")[:5] == ("b", "acme", "red", "nightly", "4711")
        long = context.attach(baggage.set_baggage("loco.tenant", "x" * 5000))
        tenant = identity.resolve_identity("me").tenant
        assert tenant is not None
        assert len(tenant) == 200
        context.detach(long)
    finally:
        context.detach(token)
    assert identity.resolve_identity("me")[:5] == ("me", None, None, None, None)


@pytest.mark.parametrize("name", ["tenant", "team", "workflow", "session"])
@pytest.mark.parametrize("value", ["", 5])
def test_invalid_name_is_rejected(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a non-empty string or None, not {value!r}"):
        as_agent("a", **{name: value})  # type: ignore[arg-type]


def test_as_agent_applies_where_the_context_is_inherited() -> None:
    seen: dict[str, str] = {}

    async def child() -> None:
        seen["task"] = me()
        with as_agent("child"):
            seen["child"] = await asyncio.to_thread(me)

    async def main() -> None:
        with as_agent("parent"):
            await asyncio.create_task(child())
            seen["parent"] = me()
        seen["after"] = me()

    asyncio.run(main())
    assert seen == {"task": "parent", "child": "child", "parent": "parent", "after": "unknown"}


def test_as_agent_does_not_apply_to_another_thread() -> None:
    seen = []
    thread = threading.Thread(target=Context().run, args=(lambda: seen.append(me()),))
    with as_agent("a"):
        thread.start()
        thread.join()
    assert seen == ["unknown"]


def test_as_agent_ends_with_a_body_that_raises() -> None:
    with pytest.raises(RuntimeError), as_agent("outer"):
        with pytest.raises(KeyError), as_agent("inner"):
            raise KeyError
        assert me() == "outer"
        raise RuntimeError
    assert me() == "unknown"


def test_as_agent_is_reusable() -> None:
    analyst = as_agent("analyst")
    with analyst:
        with analyst, as_agent("other"):
            assert me() == "other"
        assert me() == "analyst"
    assert me() == "unknown"


def test_as_agent_serves_concurrent_tasks() -> None:
    analyst = as_agent("analyst")

    async def work(together: asyncio.Barrier) -> tuple[str, str]:
        with analyst:
            await together.wait()
            within = me()
        return within, me()

    async def main() -> list[tuple[str, str]]:
        together = asyncio.Barrier(3)
        return await asyncio.gather(*(work(together) for _ in range(3)))

    assert asyncio.run(main()) == [("analyst", "unknown")] * 3


def test_as_agent_of_a_generator_may_end_anywhere() -> None:
    def speak() -> Iterator[str]:
        with as_agent("generator"):
            yield me()

    def close_elsewhere(generator: Any) -> None:
        with as_agent("closing"):
            generator.close()
            assert me() == "closing"

    generator = speak()
    context = copy_context()
    assert context.run(next, generator) == "generator"
    close_elsewhere(generator)
    # In one context two bodies end in the order in which they began.
    first, second = speak(), as_agent("second")
    next(first)
    with second:
        first.close()
        assert me() == "second"
    assert me() == "unknown"
    dropped = speak()
    context.run(next, dropped)
    del dropped
    gc.collect()
    assert me() == "unknown"


# -- install -----------------------------------------------------------------------------------------------------------


class FakeInstrumentor:
    """An instrumentor that keeps count."""

    is_instrumented_by_opentelemetry = False
    calls: list[str]

    def __init__(self) -> None:
        self.calls = CALLS

    def instrument(self, **_: object) -> None:
        type(self).is_instrumented_by_opentelemetry = True
        self.calls.append(f"instrument {type(self).__name__}")

    def uninstrument(self) -> None:
        type(self).is_instrumented_by_opentelemetry = False
        self.calls.append(f"uninstrument {type(self).__name__}")


CALLS: list[str] = []


@pytest.fixture
def instrumentors(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two SDKs' instrumentors and somebody else's; returns what is done to them."""
    CALLS.clear()
    entries = []
    for name in ("loco_second", "other", "loco_first"):
        cls = type(name, (FakeInstrumentor,), {})
        monkeypatch.setattr(f"{__name__}.{name}", cls, raising=False)
        entries.append(EntryPoint(name, f"{__name__}:{name}", "opentelemetry_instrumentor"))
    monkeypatch.setattr(entry_points, "_found", {})
    monkeypatch.setattr(entry_points, "entry_points", lambda: EntryPoints(entries))
    return CALLS


def test_install_patches_once_and_uninstall_unpatches(instrumentors: list[str]) -> None:
    assert loco_otel.install() == ("loco_first", "loco_second")
    assert loco_otel.install() == ("loco_first", "loco_second")
    assert instrumentors == ["instrument loco_first", "instrument loco_second"]
    loco_otel.uninstall()
    loco_otel.uninstall()
    assert instrumentors[2:] == ["uninstrument loco_first", "uninstrument loco_second"]


@pytest.mark.parametrize(("left_out", "rest"), [("loco_first", ("loco_second",)), ("*", ()), ("loco_first,*", ())])
def test_install_skips_what_opentelemetry_disables(
    instrumentors: list[str], monkeypatch: pytest.MonkeyPatch, left_out: str, rest: tuple[str, ...]
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", left_out)
    assert loco_otel.install() == rest
    assert instrumentors == [f"instrument {name}" for name in rest]


def test_install_does_nothing_when_disabled(
    instrumentors: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LOCO_ENABLED", "false")
    with caplog.at_level(logging.INFO, "loco_otel"):
        assert loco_otel.install() == ()
    assert instrumentors == []
    assert caplog.messages == ["no SDK is patched, as LOCO_ENABLED is false (set it to true to schedule calls)"]


# -- types -------------------------------------------------------------------------------------------------------------

TYPED = """
from typing import assert_type
import loco_otel
from loco_otel.events import Snapshot

def sync() -> None:
    with loco_otel.as_agent(run="r", deadline=5), loco_otel.slot("a", weight=2, timeout=0.5) as held:
        assert_type(held.weight, float)
        assert_type(held.waited_ticks, int)
        held.touch()

async def coroutine() -> str:
    async with loco_otel.slot(labels={"k": "v"}) as held:
        return held.agent

assert_type(loco_otel.snapshot(), Snapshot)
assert_type(loco_otel.configure(capacity=4).settings, loco_otel.Settings)
assert_type(loco_otel.install(), tuple[str, ...])
loco_otel.slot(agent=7)  # type: ignore[arg-type]
loco_otel.slot("a", 2)  # type: ignore[call-arg]
loco_otel.as_agent(deadline="5")  # type: ignore[arg-type]
"""


def test_strictly_typed_program_passes(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(TYPED)
    cache = str(tmp_path / "cache")
    out, err, status = mypy.api.run(["--strict", "--config-file=", "--cache-dir", cache, str(program)])
    assert (status, err) == (0, ""), out


def test_promised_names_exist() -> None:
    assert len(set(loco_otel.__all__)) == len(loco_otel.__all__)
    for name in loco_otel.__all__:
        assert getattr(loco_otel, name) is not None
    assert Path(loco_otel.__file__).with_name("py.typed").exists()
