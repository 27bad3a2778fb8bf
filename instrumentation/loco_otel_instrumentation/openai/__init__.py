"""OpenAI's SDK, with its clients for Azure."""

from loco_otel.patching import LocoInstrumentor, Target, stainless
from loco_otel_instrumentation.openai.adapter import OpenAIAdapter

__all__ = ["OpenAIInstrumentor"]


class OpenAIInstrumentor(LocoInstrumentor):
    """Schedules chat completions, completions, responses, embeddings, images and audio; moderations and files pass."""

    sdk = "openai"
    requires = "openai >= 1.76, < 4"
    not_covered = ("realtime.connect", "responses.connect", "responses.create(background=True)", "batches", "videos")

    def list_targets(self) -> tuple[Target, ...]:
        """Return the methods that Stainless generates for all SDKs."""
        return stainless.build_targets(OpenAIAdapter())
