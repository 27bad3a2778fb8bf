"""OpenAI's SDK, with its clients for Azure."""

from loco_otel.patching import LocoInstrumentor, Target, stainless
from loco_otel_instrumentation.openai.adapter import OpenAIAdapter

__all__ = ["OpenAIInstrumentor"]


class OpenAIInstrumentor(LocoInstrumentor):
    """Schedules chat completions, completions, responses and embeddings."""

    sdk = "openai"
    requires = "openai >= 1.76, < 4"

    def list_targets(self) -> tuple[Target, ...]:
        """Return the methods that Stainless generates for all SDKs."""
        return stainless.build_targets(OpenAIAdapter())
