"""Opens connections with redis-py, which is imported only if a shared engine is set."""

import importlib
from collections.abc import Mapping
from contextlib import suppress
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
        "retry": _make_no_retry(redis),
        "protocol": 2,
        "client_name": "loco-otel",
    }
    pool = redis.ConnectionPool.from_url(address.url, **options)
    if address.sentinels:
        at = _discover_primary(redis, address, timeout, pool.connection_kwargs)
    if at is not None:
        host, port = at
        # A node of a cluster that does not know its own host replies with a port alone.
        pool.connection_kwargs.update(host=host or pool.connection_kwargs["host"], port=port)
    connection: Any = pool.make_connection()
    connection.connect()
    return connection


def _make_no_retry(redis: Any) -> Any:
    return redis.retry.Retry(redis.backoff.NoBackoff(), 0)


def _discover_primary(
    redis: Any, address: EngineAddress, timeout: float, options: Mapping[str, Any]
) -> tuple[str, int]:
    """Return host and port of the primary. Sentinels have no login, or the same as the primary."""
    # Without its retries, redis-py would sleep for seconds at each sentinel that is down or refuses the login.
    once = {"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry": _make_no_retry(redis)}
    login = {name: options[name] for name in ("username", "password") if options.get(name)}
    for tried in ({}, login) if login else ({},):
        sentinel = redis.sentinel.Sentinel(list(address.sentinels), sentinel_kwargs={**once, **tried})
        with suppress(redis.exceptions.ConnectionError):
            host, port = sentinel.discover_master(address.service)
            return host, port
    hosts = ", ".join(f"{host}:{port}" for host, port in address.sentinels)
    raise redis.exceptions.ConnectionError(
        f"no sentinel of {hosts} returns the primary of {address.service!r}: each is down, refuses the login, or does "
        "not know it"
    )
