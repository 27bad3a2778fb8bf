"""The wrappers that name an agent's calls: while its code runs, and not while its caller's does."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, closing, contextmanager
from typing import Any

import pytest
import wrapt

from loco_otel._runtime import agent_readers, process
from loco_otel._runtime.identity import resolve_identity
from loco_otel.events import RunEnded
from loco_otel.patching import FrameworkHooks, IdentityHooks, PartialIdentity, Target, agent_identity
from loco_otel.testing import RecordingListener

HOOKS = IdentityHooks("framework")


@pytest.fixture(autouse=True)
def faults(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(agent_readers, "faults", {})
    return agent_readers.faults


def current() -> str:
    return resolve_identity("nobody").agent


def read_name(agent: Any, _: object, __: object) -> PartialIdentity:
    return PartialIdentity(agent.name)


def fail(*_: object) -> PartialIdentity:
    raise AttributeError("no name")


class Agent:
    """An agent with a method of each shape; each notes the name within it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[str] = []

    def call(self) -> str:
        return current()

    async def call_async(self) -> str:
        await asyncio.sleep(0)
        return current()

    async def generate(self) -> AsyncIterator[str]:
        try:
            for _ in range(2):
                try:
                    yield current()
                except ValueError:
                    self.seen.append(f"thrown {current()}")
        finally:
            self.seen.append(f"closed {current()}")

    def generate_sync(self) -> Iterator[str]:
        yield current()
        yield current()

    def delegate(self, other: "Agent") -> str:
        return f"{current()} {other.call()}"

    def fail(self) -> None:
        raise KeyError(current())

    @contextmanager
    def enter(self) -> Iterator[None]:
        yield

    @asynccontextmanager
    async def enter_async(self) -> AsyncIterator[None]:
        self.seen.append(f"entered {current()}")
        try:
            yield
        finally:
            self.seen.append(f"left {current()}")


def create_agent_class(read: Any, *, is_run: bool = False) -> type[Agent]:
    wrapped = type("Wrapped", (Agent,), dict(vars(Agent)))
    for method, wrapper in (
        ("call", HOOKS.wrap_call(read, is_run=is_run)),
        ("delegate", HOOKS.wrap_call(read, is_run=is_run)),
        ("fail", HOOKS.wrap_call(read, is_run=is_run)),
        ("call_async", HOOKS.wrap_async_call(read, is_run=is_run)),
        ("generate", HOOKS.wrap_async_generator(read, is_run=is_run)),
        ("generate_sync", HOOKS.wrap_generator(read, is_run=is_run)),
        ("enter", HOOKS.wrap_context_manager(read)),
        ("enter_async", HOOKS.wrap_async_context_manager(read)),
    ):
        wrapt.wrap_function_wrapper(wrapped, method, wrapper)
    return wrapped


NamedAgent = create_agent_class(read_name)


def test_calls_are_named_while_they_run() -> None:
    agent = NamedAgent("poet")
    assert (agent.call(), asyncio.run(agent.call_async()), current()) == ("poet", "poet", "nobody")


def test_context_manager_names_its_body() -> None:
    with NamedAgent("poet").enter():
        assert current() == "poet"
    assert current() == "nobody"


def test_generator_is_named_in_its_steps_alone() -> None:
    async def main() -> None:
        agent = NamedAgent("poet")
        async with aclosing(agent.generate()) as names:
            assert await anext(names) == "poet"
            assert current() == "nobody"
            assert await names.athrow(ValueError()) == "poet"
            assert current() == "nobody"
        assert agent.seen == ["thrown poet", "closed poet"]
        assert [name async for name in NamedAgent("critic").generate()] == ["critic", "critic"]
        assert current() == "nobody"

    asyncio.run(main())


def test_async_context_manager_does_not_name_its_body() -> None:
    async def main() -> None:
        agent = NamedAgent("poet")
        async with agent.enter_async():
            assert current() == "nobody"
        assert agent.seen == ["entered poet", "left poet"]

    asyncio.run(main())


def test_parallel_generators_keep_their_names() -> None:
    async def main() -> None:
        poet, critic = NamedAgent("poet").generate(), NamedAgent("critic").generate()
        for _ in range(2):
            assert await asyncio.gather(anext(poet), anext(critic)) == ["poet", "critic"]
        await asyncio.gather(poet.aclose(), critic.aclose())

    asyncio.run(main())


@pytest.mark.parametrize("read", [fail, lambda *_: PartialIdentity(42)])  # type: ignore[arg-type]
def test_hook_that_fails_costs_the_name_alone(read: Any, faults: dict[str, str], caplog: Any) -> None:
    async def main() -> None:
        agent = create_agent_class(read)("poet")
        assert (agent.call(), await agent.call_async()) == ("nobody", "nobody")
        assert [name async for name in agent.generate()] == ["nobody", "nobody"]
        with agent.enter():
            assert current() == "nobody"
        async with agent.enter_async():
            assert agent.seen[-1] == "entered nobody"

    asyncio.run(main())
    assert faults.keys() == {"framework"}
    assert len(caplog.records) == 1


def test_error_of_the_agent_reaches_its_caller() -> None:
    with pytest.raises(KeyError, match="poet"):
        NamedAgent("poet").fail()
    assert current() == "nobody"


class RunEnds:
    """The ends of runs that agents report."""

    def __init__(self) -> None:
        self._listener = RecordingListener()
        process.get_runtime().engine.add_listener(self._listener)

    def take(self) -> list[str]:
        """Return the runs that have ended since the last call."""
        process.get_runtime().engine.flush()
        ended = [event.run for event in self._listener.of(RunEnded)]
        self._listener.events.clear()
        return ended


@pytest.fixture
def ends() -> RunEnds:
    return RunEnds()


def read_run(agent: Any, _: object, __: object) -> PartialIdentity:
    return PartialIdentity(agent.name, run=f"run of {agent.name}")


RunningAgent = create_agent_class(read_run, is_run=True)


def test_end_of_a_call_is_that_of_its_run(ends: RunEnds) -> None:
    agent = RunningAgent("poet")
    agent.call()
    assert ends.take() == ["run of poet"]
    asyncio.run(agent.call_async())
    assert ends.take() == ["run of poet"]
    with pytest.raises(KeyError):
        agent.fail()
    assert ends.take() == ["run of poet"]
    create_agent_class(read_run)("critic").call()
    assert ends.take() == []


def test_run_within_another_reports_no_end(ends: RunEnds) -> None:
    assert RunningAgent("poet").delegate(RunningAgent("critic")) == "poet critic"
    assert ends.take() == ["run of poet"]


def test_run_ends_with_its_last_step_and_not_before(ends: RunEnds) -> None:
    async def main() -> None:
        names = RunningAgent("poet").generate()
        await anext(names)
        assert ends.take() == []
        assert [name async for name in names] == ["poet"]
        assert ends.take() == ["run of poet"]
        async with aclosing(RunningAgent("poet").generate()) as left:
            await anext(left)
            assert ends.take() == []
        assert ends.take() == ["run of poet"]

    asyncio.run(main())
    names = RunningAgent("poet").generate_sync()
    next(names)
    assert ends.take() == []
    assert list(names) == ["poet"]
    assert ends.take() == ["run of poet"]
    with closing(RunningAgent("poet").generate_sync()) as left:  # type: ignore[type-var]
        next(left)
    assert ends.take() == ["run of poet"]


def test_missing_method_costs_only_its_own_calls(monkeypatch: pytest.MonkeyPatch, faults: dict[str, str]) -> None:
    class Entry:
        name = value = f"{__name__}:create"

        def load(self) -> Any:
            wrapper = HOOKS.wrap_call(read_name)
            targets = (Target(__name__, "Agent", "gone", wrapper), Target(__name__, "Agent", "call", wrapper))
            return lambda: FrameworkHooks(targets)

    user = object()
    monkeypatch.setattr(agent_identity, "_users", {user})
    agent_identity._load_reader(Entry())  # type: ignore[arg-type]
    assert Agent("poet").call() == "poet"
    assert "gone" in next(iter(faults.values()))
    assert agent_readers.readers == ()
    agent_identity.disable_readers(user)
    assert Agent("poet").call() == "nobody"
