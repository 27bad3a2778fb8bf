"""The URL of the engine that processes share, and the settings that it does not support."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from loco_otel._config.validators import resolve_path

MEMORY = "memory"
"""The engine of a program that shares nothing."""
_SCHEMES = ("redis", "rediss", "valkey", "valkeys", "redis+sentinel")
_SENTINEL_PORT = 26379
_QUERY_PASSWORD = re.compile(r"([?&][^=&#]*password=)[^&#]*", re.IGNORECASE)

_OBSERVING = (
    "limits nothing, while the engine limits the calls of all processes: set LOCO_MODE=enforce or LOCO_ENGINE=memory"
)


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
            >>> EngineAddress.parse("redis+sentinel://one:26379,two/mymaster").sentinels
            (('one', 26379), ('two', 26379))

        """
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES:
            raise ValueError(f"the scheme must be one of {', '.join(_SCHEMES)}")
        if parts.scheme != "redis+sentinel":
            if parts.port == 0 or not parts.hostname:
                raise ValueError("it names no host")
            scheme = "rediss" if parts.scheme in {"rediss", "valkeys"} else "redis"
            return cls(urlunsplit((scheme, *parts[1:])))
        login, _, hosts = parts.netloc.rpartition("@")
        service, _, database = parts.path.strip("/").partition("/")
        if not hosts or not service:
            raise ValueError("it must name hosts and a service, as redis+sentinel://host:26379/service does")
        sentinels = tuple(_parse_host(host) for host in hosts.split(","))
        prefix = f"{login}@" if login else ""
        return cls(f"redis://{prefix}primary/{database or 0}", sentinels, unquote(service))


def validate_engine(value: str) -> str:
    """Return the value of the setting, if it is valid.

    Raises:
        ValueError: it is neither `memory` nor such a URL.

    """
    if value.lower() == MEMORY:
        return MEMORY
    EngineAddress.parse(value)
    return value


def is_server_url(value: str) -> bool:
    """Return whether the value of a setting is a URL and not a path.

    Example:
        >>> is_server_url("redis://cache"), is_server_url("spent.db")
        (True, False)

    """
    return "://" in value


def validate_ledger(value: str | None) -> str | None:
    """Return the URL or the absolute path that the setting names.

    Raises:
        ValueError: it is a URL, but not one of such a server.
        PydanticCustomError: it is a path that cannot be resolved.

    """
    if value is None or not is_server_url(value):
        return resolve_path(value)
    EngineAddress.parse(value)
    return value


def hide_password(url: str) -> str:
    """Return a URL for display.

    Example:
        >>> hide_password("redis://user:secret@cache/0")
        'redis://user:***@cache/0'
        >>> hide_password("redis://cache?password=secret&db=1")
        'redis://cache?password=***&db=1'

    """
    url = _QUERY_PASSWORD.sub(r"\1***", url)
    head, at, tail = url.rpartition("@")
    scheme, separator, login = head.partition("://")
    if not at or not separator:
        return url
    user, colon, _ = login.partition(":")
    return f"{scheme}://{user}{colon}{'***' if colon else ''}@{tail}"


def find_unshared(mode: str) -> Iterable[tuple[str, str]]:
    """Yield the key of each setting whose value the shared engine does not support, and why."""
    if mode == "observe":
        yield "mode", _OBSERVING


def _parse_host(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return (host, int(port)) if host else (text, _SENTINEL_PORT)
