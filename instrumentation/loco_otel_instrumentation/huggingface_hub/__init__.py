"""Hugging Face's SDK for inference, by its router, by the providers behind it, or by a server of one's own."""

from loco_otel.patching import LocoInstrumentor, NamedArguments, Target, wrappers
from loco_otel_instrumentation.huggingface_hub.adapter import HuggingFaceAdapter
from loco_otel_instrumentation.huggingface_hub.streams import follow_answer

__all__ = ["HuggingFaceInstrumentor"]

_ARGUMENTS = NamedArguments(("request_parameters",))
_MODULE = "huggingface_hub.inference._client"
_ASYNC_MODULE = "huggingface_hub.inference._generated._async_client"


class HuggingFaceInstrumentor(LocoInstrumentor):
    """Schedules chat completions, text generation and feature extraction; other tasks, and the hub itself, pass."""

    sdk = "huggingface_hub"
    requires = "huggingface_hub >= 1.0, < 3"
    not_covered = ("text_to_image", "text_to_speech", "automatic_speech_recognition", "translation", "other tasks")

    def list_targets(self) -> tuple[Target, ...]:
        """Return the methods that the requests of all tasks pass. They make one attempt."""
        adapter = HuggingFaceAdapter()
        call = wrappers.wrap_call(adapter, _ARGUMENTS, follow_answer)
        async_call = wrappers.wrap_async_call(adapter, _ARGUMENTS, follow_answer)
        return (
            Target(_MODULE, "InferenceClient", "_inner_post", call),
            Target(_ASYNC_MODULE, "AsyncInferenceClient", "_inner_post", async_call),
        )
