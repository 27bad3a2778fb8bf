"""The SDKs against a real server, under a scheduler of their own."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from sdk_scheduling import Scheduled, Scheduling
from sdk_server import LlmServer

from loco_otel.patching import response_body


@pytest.fixture(scope="session")
def llm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlmServer]:
    with LlmServer(tmp_path_factory.mktemp("llmock") / "output.txt") as server:
        yield server


@pytest.fixture
def server(llm_server: LlmServer) -> LlmServer:
    """The server of the session, with nothing scripted and nothing noted."""
    llm_server.reset()
    return llm_server


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that a test leaves open lends its slot to nobody, however slow the machine is."""
    monkeypatch.setattr(response_body, "_UNREAD_IDLE_SECONDS", 1e6)
    monkeypatch.setattr(response_body, "_PAUSED_IDLE_SECONDS", 1e6)


@pytest.fixture
def scheduled() -> Iterator[Scheduled]:
    """Patch the SDKs under given settings; all is taken off again at the end."""
    with ExitStack() as stack:

        def schedule(**settings: object) -> Scheduling:
            scheduling = Scheduling(settings)
            stack.callback(scheduling.close)
            return scheduling

        yield schedule
