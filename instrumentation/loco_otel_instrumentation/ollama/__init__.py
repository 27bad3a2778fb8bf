"""Ollama's SDK."""

from collections.abc import Callable
from typing import Any

from loco_otel.patching import LocoInstrumentor, NamedArguments, Target, generator_wrappers, wrappers
from loco_otel_instrumentation.ollama.adapter import OllamaAdapter

__all__ = ["OllamaInstrumentor"]

_MODULE = "ollama._client"
_ARGUMENTS = NamedArguments(("cls", "method", "url"))


class OllamaInstrumentor(LocoInstrumentor):
    """Schedules chat, generation, embeddings and System One; what manages models and searches the web passes."""

    sdk = "ollama"
    requires = "ollama >= 0.4.7, < 1"

    def list_targets(self) -> tuple[Target, ...]:
        """Return the method that all calls pass: of a stream it returns a generator that has not begun."""
        adapter = OllamaAdapter()
        sync = _choose_by_stream(
            wrappers.wrap_call(adapter, _ARGUMENTS), generator_wrappers.wrap_generator(adapter, _ARGUMENTS)
        )
        asynchronous = _choose_by_stream(
            wrappers.wrap_async_call(adapter, _ARGUMENTS), generator_wrappers.wrap_async_generator(adapter, _ARGUMENTS)
        )
        return Target(_MODULE, "Client", "_request", sync), Target(_MODULE, "AsyncClient", "_request", asynchronous)


def _choose_by_stream(whole: wrappers.Wrapper, streamed: wrappers.Wrapper) -> wrappers.Wrapper:
    def wrapper(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return (streamed if kwargs.get("stream") else whole)(wrapped, client, args, kwargs)

    return wrapper
