"""The server that all programs of the matrix call."""

from collections.abc import Iterator

import pytest
from sdk_server import LlmServer


@pytest.fixture(scope="session")
def company_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlmServer]:
    with LlmServer(tmp_path_factory.mktemp("company") / "output.txt") as server:
        yield server
