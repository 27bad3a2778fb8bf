"""Opens connections with redis-py, which is imported only if a shared engine is set."""

import importlib
from typing import Any

from loco_otel._config.engine_rules import EngineAddress

MISSING_CLIENT = "LOCO_ENGINE needs the package redis: pip install 'loco-otel[redis]'"


def import_client() -> Any:
    """Return the module `redis`, which takes half a second to import.

    Raises:
        ImportError: it is not installed.

    """
    client: Any = importlib.import_module("redis")
    for part in ("backoff", "retry", "sentinel"):
        importlib.import_module(f"redis.{part}")
    return client


def open_connection(address: EngineAddress, timeout: float, at: tuple[str, int] | None = None) -> Any:
    """Return an open connection of redis-py to the primary, or to the node `at` of a cluster.

    Raises:
        redis.exceptions.RedisError: it cannot be reached within `timeout` seconds, or refuses the login.

    """
    redis = import_client()
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "socket_keepalive": True,
        # A batch is never sent twice: after an error there is a sync.
        "retry": redis.retry.Retry(redis.backoff.NoBackoff(), 0),
        "protocol": 2,
        "client_name": "loco-otel",
    }
    pool = redis.ConnectionPool.from_url(address.url, **options)
    if address.sentinels:
        sentinel = redis.sentinel.Sentinel(
            list(address.sentinels), socket_timeout=timeout, socket_connect_timeout=timeout
        )
        at = sentinel.discover_master(address.service)
    if at is not None:
        pool.connection_kwargs.update(host=at[0], port=at[1])
    connection: Any = pool.make_connection()
    connection.connect()
    return connection
