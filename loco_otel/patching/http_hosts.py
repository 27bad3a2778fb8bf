"""The hosts whose requests are calls, though no SDK sends them: those of the setting `http_hosts`."""

from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from loco_otel._runtime import process

_DEFAULT_PORTS = {"http": 80, "https": 443}


def is_http_host(url: Any) -> bool:
    """Return whether the setting names the host of a URL, without a port or with that of the URL.

    Args:
        url: with `host`, `port` and `scheme`; a port that is None is that of the scheme.

    """
    runtime = process.get_existing_runtime()
    if runtime is None:
        return False
    hosts = _parse_hosts(runtime.settings.http_hosts)
    host = url.host.lower()
    return (host, None) in hosts or (host, url.port or _DEFAULT_PORTS.get(url.scheme)) in hosts


@lru_cache(8)
def _parse_hosts(hosts: tuple[str, ...]) -> frozenset[tuple[str | None, int | None]]:
    """Return names and ports; a port of None is any."""
    parts = [urlsplit(f"//{host}") for host in hosts]
    return frozenset((part.hostname, part.port) for part in parts)
