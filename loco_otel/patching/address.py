"""Where a call is sent, for SDKs that keep it as text."""

from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit


class Address(NamedTuple):
    """The parts of a URL that routing and telemetry read."""

    scheme: str
    host: str | None
    port: int | None


@lru_cache(64)
def parse_address(url: str) -> Address:
    """Return the address of a URL."""
    parts = urlsplit(url)
    return Address(parts.scheme, parts.hostname, parts.port)
