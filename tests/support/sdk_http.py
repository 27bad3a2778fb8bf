"""The HTTP library under each SDK: httpx, and httpx2 since openai 3 and anthropic 1."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

Handler = Callable[[Any], Any]
"""A provider in this process: a function from request to response, sync or async."""


def http_of(sdk: str) -> Any:
    """Return the library that this version of an SDK is made for."""
    base = import_module(f"{sdk}._base_client")
    return getattr(base, "httpx2", None) or base.httpx


def client_of(library: Any, handler: Handler, *, is_async: bool = False) -> Any:
    """Return an HTTP client whose server is a function."""
    transport = library.MockTransport(handler)
    return library.AsyncClient(transport=transport) if is_async else library.Client(transport=transport)
