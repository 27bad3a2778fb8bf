"""What the SDKs that Stainless generates have in common: OpenAI, Anthropic and others.

Each has `_base_client.SyncAPIClient` and `AsyncAPIClient`, whose `request` all calls pass, with retries inside, and
whose `_sleep_for_retry` is the pause between two attempts. At `request` the body is plain JSON and the path is still
the API's own: clients for Azure, Bedrock and Vertex rewrite it later.
"""

from collections.abc import Mapping
from typing import Any

from loco_otel.patching import calls
from loco_otel.patching.adapter import Adapter, Description
from loco_otel.patching.target import Target


def targets(adapter: Adapter) -> tuple[Target, ...]:
    """Return what to wrap of the adapter's SDK."""
    module = f"{adapter.sdk}._base_client"
    return (
        Target(module, "SyncAPIClient", "request", calls.request(adapter)),
        Target(module, "AsyncAPIClient", "request", calls.async_request(adapter)),
        Target(module, "SyncAPIClient", "_sleep_for_retry", calls.pause(adapter)),
        Target(module, "AsyncAPIClient", "_sleep_for_retry", calls.async_pause(adapter)),
    )


def describe(options: Any, operations: Mapping[str, str], provider: str) -> Description | None:
    """Describe a request by the end of its path; None for a path that is not in `operations`."""
    if options is None or options.method.lower() != "post":
        return None
    path = path_of(options)
    for ending, operation in operations.items():
        if path.endswith(ending):
            body = options.json_data if isinstance(options.json_data, Mapping) else {}
            model = body.get("model")
            return Description(provider, operation, model if isinstance(model, str) else None, body)
    return None


def path_of(options: Any) -> str:
    """Return the path of a request, as the API names it."""
    path: str = options.url.partition("?")[0]
    return path.rstrip("/")


def provider_of(client: Any, providers: Mapping[str, str], default: str) -> str:
    """Return the provider by the name of the client's class, or of one that it extends."""
    for base in type(client).__mro__:
        for part, provider in providers.items():
            if part in base.__name__:
                return provider
    return default
