"""OpenAI's SDK, with its clients for Azure."""

from loco_otel.patching import LocoInstrumentor, Target, stainless
from loco_otel_instrumentation.openai.adapter import OpenAIAdapter

__all__ = ["OpenAIInstrumentor"]


class OpenAIInstrumentor(LocoInstrumentor):
    """Schedules chat, completions, responses, decisions, embeddings, images and audio; moderations and files pass."""

    sdk = "openai"
    requires = "openai >= 1.76, < 4"
    not_covered = (
        "realtime.connect",
        "responses.connect",
        "live",
        "responses.create(background=True)",
        "beta.threads.runs",
        "beta.threads.create_and_run",
        "beta.agents",
        "batches",
        "evals",
        "fine_tuning",
        "videos",
    )

    def list_targets(self) -> tuple[Target, ...]:
        """Return the methods that Stainless generates for all SDKs."""
        return stainless.build_targets(OpenAIAdapter())
