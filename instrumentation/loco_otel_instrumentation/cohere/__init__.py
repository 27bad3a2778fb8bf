"""Cohere's SDK."""

from loco_otel.patching import (
    LocoInstrumentor,
    NamedArguments,
    Target,
    attempt_wrappers,
    event_stream,
    is_installed,
    managed_wrappers,
    wrappers,
)
from loco_otel_instrumentation.cohere.adapter import CohereAdapter
from loco_otel_instrumentation.cohere.retries import suspend_before_pause

__all__ = ["CohereInstrumentor"]

_MODULE = "cohere.core.http_client"
_ARGUMENTS = NamedArguments(("path",))
_RETRIES_CONNECTIONS = "cohere >= 6"
"""Versions that try again after a connection failed."""


class CohereInstrumentor(LocoInstrumentor):
    """Schedules chat, generation, summaries and embeddings of both APIs; ranks, classes, tokens and jobs pass."""

    sdk = "cohere"
    requires = "cohere >= 5.20.7, < 8"
    not_covered = ("rerank", "classify", "audio.transcriptions", "batches", "embed_jobs")

    def list_targets(self) -> tuple[Target, ...]:
        """Return the methods that all requests pass, and the functions that compute the pause before the next attempt.

        `request` calls itself for the next attempt; `stream` makes only one.
        """
        adapter = CohereAdapter()
        follow = event_stream.follow_response
        call = attempt_wrappers.wrap_recursive_call(wrappers.wrap_call(adapter, _ARGUMENTS, follow))
        async_call = attempt_wrappers.wrap_async_recursive_call(wrappers.wrap_async_call(adapter, _ARGUMENTS, follow))
        stream = managed_wrappers.wrap_managed(adapter, _ARGUMENTS, follow)
        async_stream = managed_wrappers.wrap_async_managed(adapter, _ARGUMENTS, follow)
        pause = suspend_before_pause(adapter)
        targets = (
            Target(_MODULE, "HttpClient", "request", call),
            Target(_MODULE, "HttpClient", "stream", stream),
            Target(_MODULE, "AsyncHttpClient", "request", async_call),
            Target(_MODULE, "AsyncHttpClient", "stream", async_stream),
            Target(_MODULE, None, "_retry_timeout", pause),
        )
        if not is_installed(_RETRIES_CONNECTIONS):
            return targets
        return (*targets, Target(_MODULE, None, "_retry_timeout_from_retries", pause))
