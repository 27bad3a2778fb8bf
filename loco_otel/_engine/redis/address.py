"""The URL of the shared engine, and connections to it. `redis` is imported by the first of these."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

SCHEMES = ("redis", "rediss", "valkey", "valkeys", "redis+sentinel")


class EngineAddress(NamedTuple):
    """Where the engine is."""

    url: str
    """For one server; of Sentinel, what its primary is connected with."""
    sentinels: Sequence[tuple[str, int]] = ()
    service: str = ""

    @classmethod
    def parse(cls, url: str) -> "EngineAddress":
        """Return the address that a URL names.

        Raises:
            ValueError: it is not a URL of such a server.

        Example:
            >>> EngineAddress.parse("valkey://cache:6380/1").url
            'redis://cache:6380/1'
            >>> EngineAddress.parse("redis+sentinel://one:26379,two:26379/mymaster").sentinels
            (('one', 26379), ('two', 26379))

        """
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or not parts.netloc:
            raise ValueError(f"the scheme must be one of {', '.join(SCHEMES)}")
        if parts.scheme != "redis+sentinel":
            if parts.port == 0 or not parts.hostname:
                raise ValueError("it names no host")
            scheme = "rediss" if parts.scheme in {"rediss", "valkeys"} else "redis"
            return cls(urlunsplit((scheme, *parts[1:])))
        login, _, hosts = parts.netloc.rpartition("@")
        sentinels = tuple(_parse_host(host) for host in hosts.split(","))
        service, _, database = parts.path.strip("/").partition("/")
        if not service:
            raise ValueError("it names no service, as redis+sentinel://host:26379/service does")
        prefix = f"{login}@" if login else ""
        return cls(f"redis://{prefix}primary/{database or 0}", sentinels, unquote(service))

    def connect(self, timeout: float, at: tuple[str, int] | None = None) -> "AbstractConnection":
        """Return an open connection to the primary, or to the node `at` of a cluster.

        Raises:
            redis.exceptions.RedisError: it cannot be reached within `timeout` seconds.

        """
        from redis import ConnectionPool
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        options: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "socket_keepalive": True,
            # A batch is never sent twice: after an error there is a sync.
            "retry": Retry(NoBackoff(), 0),
            "decode_responses": True,
            "protocol": 2,
            "client_name": "loco-otel",
        }
        pool = ConnectionPool.from_url(self.url, **options)
        at = self._find_primary(timeout) if self.sentinels else at
        if at is not None:
            pool.connection_kwargs.update(host=at[0], port=at[1])
        connection = pool.make_connection()
        connection.connect()
        return connection

    def _find_primary(self, timeout: float) -> tuple[str, int]:
        from redis.sentinel import Sentinel

        sentinel = Sentinel(list(self.sentinels), socket_timeout=timeout, socket_connect_timeout=timeout)
        host, port = sentinel.discover_master(self.service)
        return host, port


def hide_password(url: str) -> str:
    """Return a URL for display.

    Example:
        >>> hide_password("redis://user:secret@cache/0")
        'redis://user:***@cache/0'

    """
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, _, login = head.partition("://")
    user, colon, _ = login.partition(":")
    return f"{scheme}://{user}{colon}{'***' if colon else ''}@{tail}"


def _parse_host(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return (host, int(port)) if host else (text, 26379)
