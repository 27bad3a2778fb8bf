"""Groq's SDK."""

from loco_otel.patching import LocoInstrumentor, Target, stainless
from loco_otel_instrumentation.groq.adapter import GroqAdapter

__all__ = ["GroqInstrumentor"]


class GroqInstrumentor(LocoInstrumentor):
    """Schedules chat completions and embeddings; audio, files, batches and lists of models pass."""

    sdk = "groq"
    requires = "groq >= 0.23.1, < 2"
    not_covered = ("audio", "batches")

    def list_targets(self) -> tuple[Target, ...]:
        """Return the methods that Stainless generates for all SDKs."""
        return stainless.build_targets(GroqAdapter())
