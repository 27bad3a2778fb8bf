"""Azure's SDK for inference, of models of Azure AI Foundry and of GitHub."""

from loco_otel.patching import LocoInstrumentor, NamedArguments, Target, wrappers
from loco_otel_instrumentation.azure_ai_inference.adapter import AzureInferenceAdapter
from loco_otel_instrumentation.azure_ai_inference.retries import wrap_async_pause, wrap_pause
from loco_otel_instrumentation.azure_ai_inference.streams import follow_answer

__all__ = ["AzureInferenceInstrumentor"]

_MODULES = ("azure.ai.inference._patch", "azure.ai.inference.aio._patch")
_POLICIES = "azure.core.pipeline.policies"
_ARGUMENTS = NamedArguments(("body",))
_METHODS = {
    ("ChatCompletionsClient", "complete"): "chat",
    ("EmbeddingsClient", "embed"): "embeddings",
    ("ImageEmbeddingsClient", "embed"): "embeddings",
}
"""`gen_ai.operation.name` by class and method."""


class AzureInferenceInstrumentor(LocoInstrumentor):
    """Schedules chat completions and embeddings, of texts and images; what describes a model passes."""

    sdk = "azure.ai.inference"
    requires = "azure-ai-inference >= 1.0.0b9, < 2"

    def list_targets(self) -> tuple[Target, ...]:
        """Return the methods of both colours, and those of azure-core that pause before the next attempt."""
        sync, asynchronous = _MODULES
        adapters = {method: AzureInferenceAdapter(operation) for method, operation in _METHODS.items()}
        adapter = adapters["ChatCompletionsClient", "complete"]
        return (
            *(
                Target(sync, *method, wrappers.wrap_call(each, _ARGUMENTS, follow_answer))
                for method, each in adapters.items()
            ),
            *(
                Target(asynchronous, *method, wrappers.wrap_async_call(each, _ARGUMENTS, follow_answer))
                for method, each in adapters.items()
            ),
            Target(f"{_POLICIES}._retry", "RetryPolicy", "sleep", wrap_pause(adapter)),
            Target(f"{_POLICIES}._retry_async", "AsyncRetryPolicy", "sleep", wrap_async_pause(adapter)),
        )
