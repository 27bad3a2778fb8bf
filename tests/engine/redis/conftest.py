"""A server that a test may harm."""

from collections.abc import Iterator

import pytest
from redis_server import RedisServer


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Return a server that the test may harm."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.close()
