"""LiteLLM, which calls the models of many providers by their SDKs or by requests of its own."""

from collections.abc import Iterator
from typing import NamedTuple

from loco_otel.patching import LocoInstrumentor, NamedArguments, Target, wrappers
from loco_otel_instrumentation.litellm import retries
from loco_otel_instrumentation.litellm.adapter import LiteLLMAdapter
from loco_otel_instrumentation.litellm.streams import follow_answer, follow_async_answer

__all__ = ["LiteLLMInstrumentor"]

_PACKAGE = "litellm"


class _Function(NamedTuple):
    """A function of LiteLLM that makes a call, and its async one, whose name has an `a` before it."""

    name: str
    operation: str
    """As `gen_ai.operation.name` has it."""
    arguments: NamedArguments
    """The first ones, which programs give by position."""
    modules: tuple[str, ...]
    """Those of the package that define it or import it."""
    async_flag: str | None = None
    """The argument by which the async function has the sync one return a coroutine, if that is not its own name."""
    sends_usage: bool = True
    """Whether each of its streams contains its usage."""


_FUNCTIONS = (
    _Function(
        "completion",
        "chat",
        NamedArguments(("model", "messages")),
        ("main", "chat_completions", "chat_completions.dispatch"),
        sends_usage=False,
    ),
    _Function(
        "text_completion",
        "text_completion",
        NamedArguments(("prompt", "model")),
        ("main",),
        "acompletion",
        sends_usage=False,
    ),
    _Function("embedding", "embeddings", NamedArguments(("model", "input")), ("main", "embeddings.dispatch")),
    _Function("responses", "chat", NamedArguments(("input", "model")), ("responses.main", "responses.dispatch")),
)


class LiteLLMInstrumentor(LocoInstrumentor):
    """Schedules completions, text completions, responses and embeddings; images, audio, files and batches pass.

    What a call uses below, the SDK of OpenAI or another, sends its requests as a part of the call.
    """

    sdk = _PACKAGE
    requires = "litellm >= 1.106, < 2"
    not_covered = (
        "anthropic_messages",
        "generate_content",
        "decisions",
        "systemone",
        "image_generation",
        "transcription",
        "speech",
        "rerank",
        "realtime",
    )

    def list_targets(self) -> tuple[Target, ...]:
        """Return the functions, under each name that LiteLLM itself has for them."""
        return tuple(_iterate_targets())


def _iterate_targets() -> Iterator[Target]:
    for function in _FUNCTIONS:
        name, async_name = function.name, f"a{function.name}"
        adapter = LiteLLMAdapter(
            function.operation, function.async_flag or async_name, sends_usage=function.sends_usage
        )
        call = wrappers.wrap_call(adapter, function.arguments, follow_answer)
        async_call = wrappers.wrap_async_call(adapter, function.arguments, follow_async_answer)
        for module in _name_modules("", *function.modules):
            yield Target(module, None, name, call, _PACKAGE)
            yield Target(module, None, async_name, async_call, _PACKAGE)
    for module in _name_modules("", "main"):
        yield Target(module, None, "completion_with_retries", retries.wrap_retries(adapter), _PACKAGE)
        yield Target(module, None, "acompletion_with_retries", retries.wrap_async_retries(adapter), _PACKAGE)


def _name_modules(*below: str) -> Iterator[str]:
    """Yield the full names of modules of the package, which is itself the empty name."""
    for name in below:
        yield f"{_PACKAGE}.{name}".rstrip(".")
