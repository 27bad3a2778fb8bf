"""What the SDKs that Stainless generates have in common: OpenAI, Anthropic and others.

Each has `_base_client.SyncAPIClient` and `AsyncAPIClient`, whose `request` all calls pass, with retries inside, and
whose `_sleep_for_retry` is the pause between two attempts. Each attempt is made by `BaseClient._build_request`, and its
answer read by `_process_response`. At
`request` the body is plain JSON and the path is still the API's own: clients for Azure, Bedrock and Vertex rewrite it
later.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from loco_otel.patching import wrappers
from loco_otel.patching.adapter import Adapter, CallDescription
from loco_otel.patching.target import Target

_MAX_PATHS = 64
"""Whose operation is remembered; there are more only where ids are in them."""


def build_targets(adapter: Adapter, package: str | None = None) -> tuple[Target, ...]:
    """Return what to wrap of the adapter's SDK.

    Args:
        adapter: of the SDK.
        package: what Stainless generated; None for the whole SDK.

    """
    module = f"{package or adapter.sdk}._base_client"
    return (
        Target(module, "SyncAPIClient", "request", wrappers.wrap_call(adapter)),
        Target(module, "AsyncAPIClient", "request", wrappers.wrap_async_call(adapter)),
        Target(module, "SyncAPIClient", "_sleep_for_retry", wrappers.wrap_pause(adapter)),
        Target(module, "AsyncAPIClient", "_sleep_for_retry", wrappers.wrap_async_pause(adapter)),
        Target(module, "BaseClient", "_build_request", wrappers.observe_attempt(adapter)),
        Target(module, "SyncAPIClient", "_process_response", wrappers.observe_response(adapter)),
        Target(module, "AsyncAPIClient", "_process_response", wrappers.observe_response(adapter)),
    )


class Endpoints:
    """Determines a request's operation by the end of its path, and its provider by its client's class and base URL.

    Args:
        operations: `gen_ai.operation.name` by the end of a path.
        providers: `gen_ai.provider.name` by a part of the name of a client's class, or of one that it extends.
        default: the provider of all other clients.
        find_by_url: returns the provider of such a client by its base URL, None for the default. It is called for
            each request.

    """

    def __init__(
        self,
        operations: Mapping[str, str],
        providers: Mapping[str, str],
        default: str,
        find_by_url: Callable[[Any], str | None] | None = None,
    ) -> None:
        self._operations = operations
        self._providers = providers
        self._default_provider = default
        self._find_by_url = find_by_url
        self._provider_by_class: dict[type, str] = {}
        """Providers by class: the program has few."""
        self._cached_operation = lru_cache(_MAX_PATHS)(self._find_operation)

    def describe_request(self, client: Any, options: Any) -> CallDescription | None:
        """Describe a request; None for a path that is none of ours."""
        if options is None or options.method.lower() != "post":
            return None
        operation = self._cached_operation(options.url)
        if operation is None:
            return None
        body = options.json_data
        if not isinstance(body, (dict, Mapping)):  # dict is the quicker question
            body = {}
        model = body.get("model")
        url = getattr(client, "_base_url", None)
        provider = self._find_provider(type(client))
        if provider is self._default_provider and self._find_by_url is not None:
            provider = self._find_by_url(url) or provider
        return CallDescription(provider, operation, model if isinstance(model, str) else None, body, url)

    def _find_operation(self, url: str) -> str | None:
        path = _strip_query(url)
        return next((operation for ending, operation in self._operations.items() if path.endswith(ending)), None)

    def _find_provider(self, kind: type) -> str:
        known = self._provider_by_class.get(kind)
        if known is None:
            names = [base.__name__ for base in kind.__mro__]
            matches = (provider for name in names for part, provider in self._providers.items() if part in name)
            known = self._provider_by_class[kind] = next(matches, self._default_provider)
        return known


def get_path(options: Any) -> str:
    """Return the path of a request, as the API names it."""
    return _strip_query(options.url)


def _strip_query(url: str) -> str:
    return url.partition("?")[0].rstrip("/")


def replace_model(options: Any, model: str | None) -> Any:
    """Return a request's options with another model; those given are left as they are."""
    place = "extra_json" if "model" in (getattr(options, "extra_json", None) or {}) else "json_data"
    return options.model_copy(update={place: {**getattr(options, place), "model": model}})
