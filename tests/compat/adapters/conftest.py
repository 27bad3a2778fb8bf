"""Adapters of loco-agent's API with real frameworks, against a real server process."""

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from llm_server import LlmServer

from loco_otel import AsyncLOCOScheduler, SharedResource
from loco_otel.patching import response_body


@pytest.fixture(scope="module")
def module_server() -> Iterator[LlmServer]:
    with LlmServer() as server:
        yield server


@pytest.fixture
def server(module_server: LlmServer) -> LlmServer:
    module_server.reset()
    return module_server


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that a test leaves open lends its slot to nobody, however slow the machine is."""
    monkeypatch.setattr(response_body, "_UNREAD_IDLE_SECONDS", 1e6)
    monkeypatch.setattr(response_body, "_PAUSED_IDLE_SECONDS", 1e6)


@pytest.fixture
def scheduler() -> Iterator[Callable[..., AsyncLOCOScheduler]]:
    """Make schedulers, and check at the end that each has all its slots and no task left."""
    made: list[AsyncLOCOScheduler] = []

    def make(capacity: int = 1, **options: Any) -> AsyncLOCOScheduler:
        made.append(AsyncLOCOScheduler([], SharedResource("llm_api", capacity), **options))
        return made[-1]

    yield make
    gc.collect()
    for each in made:
        resource = each.resource
        assert (resource.holder_count, resource.waiter_count) == (0, 0)
        assert [agent.tasks for agent in each.agents.values() if agent.tasks] == []


@pytest.fixture
def patched() -> Iterator[Callable[..., None]]:
    """Patch SDKs by their instrumentors, until the end of the test."""
    with ExitStack() as stack:

        def patch(*instrumentors: Any) -> None:
            for each in instrumentors:
                each.instrument()
                stack.callback(each.uninstrument)

        yield patch
