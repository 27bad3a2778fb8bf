"""Fixtures around the server of `llm_server`. A conftest or a test module takes those that it needs by assignment."""

from collections.abc import Iterator

import pytest
from llm_server import LlmServer

from loco_otel.patching import response_body


@pytest.fixture(scope="session")
def server_process() -> Iterator[LlmServer]:
    """One server for all tests of this process."""
    with LlmServer() as server:
        yield server


@pytest.fixture
def server(server_process: LlmServer) -> Iterator[LlmServer]:
    """The server, with nothing scripted and nothing noted, before and after the test."""
    server_process.reset()
    yield server_process
    server_process.reset()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that a test leaves open lends its slot to nobody, however slow the machine is."""
    monkeypatch.setattr(response_body, "_UNREAD_IDLE_SECONDS", 1e6)
    monkeypatch.setattr(response_body, "_PAUSED_IDLE_SECONDS", 1e6)
