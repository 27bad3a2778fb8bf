"""What the SDKs that Stainless generates have in common: OpenAI, Anthropic and others.

Each has `_base_client.SyncAPIClient` and `AsyncAPIClient`, whose `request` all calls pass, with retries inside, and
whose `_sleep_for_retry` is the pause between two attempts. Each attempt is made by `BaseClient._build_request`, and its
answer read by `_process_response`. At
`request` the body is plain JSON and the path is still the API's own: clients for Azure, Bedrock and Vertex rewrite it
later.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from loco_otel.patching import wrappers
from loco_otel.patching.adapter import Adapter, Description
from loco_otel.patching.target import Target

_MOST_PATHS = 64
"""Whose operation is remembered; there are more only where ids are in them."""


def targets(adapter: Adapter) -> tuple[Target, ...]:
    """Return what to wrap of the adapter's SDK."""
    module = f"{adapter.sdk}._base_client"
    return (
        Target(module, "SyncAPIClient", "request", wrappers.request(adapter)),
        Target(module, "AsyncAPIClient", "request", wrappers.async_request(adapter)),
        Target(module, "SyncAPIClient", "_sleep_for_retry", wrappers.pause(adapter)),
        Target(module, "AsyncAPIClient", "_sleep_for_retry", wrappers.async_pause(adapter)),
        Target(module, "BaseClient", "_build_request", wrappers.sending(adapter)),
        Target(module, "SyncAPIClient", "_process_response", wrappers.answered(adapter)),
        Target(module, "AsyncAPIClient", "_process_response", wrappers.answered(adapter)),
    )


class Endpoints:
    """Tells what a request asks, by the end of its path, and of whom, by the class of its client.

    Args:
        operations: `gen_ai.operation.name` by the end of a path.
        providers: `gen_ai.provider.name` by a part of the name of a client's class, or of one that it extends.
        default: the provider of all other clients.

    """

    def __init__(self, operations: Mapping[str, str], providers: Mapping[str, str], default: str) -> None:
        self._operations = operations
        self._providers = providers
        self._default = default
        self._known: dict[type, str] = {}
        """Providers by class: the program has few."""
        self._operation_at = lru_cache(_MOST_PATHS)(self._find_operation)

    def describe(self, client: Any, options: Any) -> Description | None:
        """Describe a request; None for a path that is none of ours."""
        if options is None or options.method.lower() != "post":
            return None
        operation = self._operation_at(options.url)
        if operation is None:
            return None
        body = options.json_data
        if not isinstance(body, (dict, Mapping)):  # dict is the quicker question
            body = {}
        model = body.get("model")
        return Description(
            self._provider_of(type(client)),
            operation,
            model if isinstance(model, str) else None,
            body,
            getattr(client, "_base_url", None),
        )

    def _find_operation(self, url: str) -> str | None:
        path = _path(url)
        return next((operation for ending, operation in self._operations.items() if path.endswith(ending)), None)

    def _provider_of(self, kind: type) -> str:
        known = self._known.get(kind)
        if known is None:
            names = [base.__name__ for base in kind.__mro__]
            matches = (provider for name in names for part, provider in self._providers.items() if part in name)
            known = self._known[kind] = next(matches, self._default)
        return known


def path_of(options: Any) -> str:
    """Return the path of a request, as the API names it."""
    return _path(options.url)


def _path(url: str) -> str:
    return url.partition("?")[0].rstrip("/")


def with_model(options: Any, model: str | None) -> Any:
    """Return a request's options with another model; those given are left as they are."""
    place = "extra_json" if "model" in (getattr(options, "extra_json", None) or {}) else "json_data"
    return options.model_copy(update={place: {**getattr(options, place), "model": model}})
