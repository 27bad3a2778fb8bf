"""The SDKs against a real server, under a scheduler of their own."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import server_fixtures
from budgeted_calls import PRICES
from sdk_scheduling import Scheduled, Scheduling
from sdk_server import LlmServer

import loco_otel

server_process = server_fixtures.server_process
patient = server_fixtures.patient


@pytest.fixture(scope="session")
def llm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlmServer]:
    with LlmServer(tmp_path_factory.mktemp("llmock") / "output.txt") as server:
        yield server


@pytest.fixture
def server(llm_server: LlmServer) -> LlmServer:
    """The server of the session, with nothing scripted and nothing noted."""
    llm_server.reset()
    return llm_server


@pytest.fixture
def scheduled(request: pytest.FixtureRequest, namespace: str) -> Iterator[Scheduled]:
    """Patch the SDKs under given settings; all is taken off again at the end.

    With the setting `engine` they share an engine on the server of the session, in a namespace of the test.
    """
    with ExitStack() as stack:

        def schedule(**settings: object) -> Scheduling:
            if "engine" in settings:
                url = request.getfixturevalue("shared_server").url
                settings = {**settings, "engine": url, "engine_namespace": namespace, "engine_timeout": 10}
            scheduling = Scheduling(settings)
            stack.callback(scheduling.close)
            return scheduling

        yield schedule


@pytest.fixture
def priced(scheduled: Scheduled) -> Iterator[Any]:
    """Patch the SDKs under budgets; `**settings` as `configure` takes them."""

    def schedule(capacity: object = "auto", **settings: Any) -> Scheduling:
        scheduling = scheduled(capacity=capacity)
        loco_otel.configure(prices=PRICES, **settings)
        return scheduling

    return schedule


@pytest.fixture
def no_foreign_context(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing may be detached where it was not attached: OpenTelemetry logs an error for each."""
    yield
    assert not [record for record in caplog.get_records("call") if record.name.startswith("opentelemetry")]
