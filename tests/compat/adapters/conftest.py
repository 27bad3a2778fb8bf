"""Adapters of loco-agent's API with real frameworks, against a real server process."""

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import server_fixtures

from loco_otel import AsyncLOCOScheduler, SharedResource

server_process = server_fixtures.server_process
server = server_fixtures.server
patient = server_fixtures.patient


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
