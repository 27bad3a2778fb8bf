"""The agent's name in the threads and tasks that run a caller's work: explicit names, and those of frameworks."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import pytest

from loco_otel import as_agent
from loco_otel._runtime.agent_readers import PartialIdentity, pop_identity, push_identity
from loco_otel._runtime.identity import resolve_identity
from loco_otel.patching import thread_context


@pytest.fixture(autouse=True)
def propagation() -> Iterator[None]:
    user = object()
    thread_context.enable_propagation(user)
    yield
    thread_context.disable_propagation(user)


@contextmanager
def push(agent: str) -> Iterator[None]:
    """Name an agent as a framework's hook does."""
    key = object()
    push_identity(key, PartialIdentity(agent))
    yield
    pop_identity(key)


def resolve() -> str:
    return resolve_identity("default").agent


async def by_executor() -> str:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(resolve).result()


async def by_map() -> str:
    with ThreadPoolExecutor(1) as pool:
        (name,) = pool.map(lambda _: resolve(), [None])
        return name


async def by_loops_executor() -> str:
    return await asyncio.get_running_loop().run_in_executor(None, resolve)


async def by_to_thread() -> str:
    return await asyncio.to_thread(resolve)


async def by_task() -> str:
    async def child() -> str:
        return resolve()

    return await asyncio.create_task(child())


@pytest.mark.parametrize("name", [as_agent, push])
@pytest.mark.parametrize("run", [by_executor, by_map, by_loops_executor, by_to_thread, by_task])
def test_name_reaches_threads_and_tasks(
    name: Callable[[str], AbstractContextManager[object]], run: Callable[[], "asyncio.Future[str]"]
) -> None:
    async def main() -> tuple[str, str]:
        with name("analyst"):
            inside = await run()
        return inside, await run()

    assert asyncio.run(main()) == ("analyst", "default")


def test_a_used_thread_keeps_no_name() -> None:
    with ThreadPoolExecutor(1) as pool:
        with push("first"):
            assert pool.submit(resolve).result() == "first"
        with as_agent("second"):
            assert pool.submit(resolve).result() == "second"
        assert pool.submit(resolve).result() == "default"


def test_a_submitted_function_may_have_keywords_of_any_name() -> None:
    keywords = dict.fromkeys(("self", "fn", "function", "carried", "wrapped", "instance", "args", "kwargs"), 1)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(dict, **keywords).result() == keywords
