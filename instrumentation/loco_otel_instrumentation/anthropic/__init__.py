"""Anthropic's SDK, with its clients for Bedrock and Vertex."""

from loco_otel.patching import LocoInstrumentor, Target, stainless
from loco_otel_instrumentation.anthropic.adapter import AnthropicAdapter

__all__ = ["AnthropicInstrumentor"]


class AnthropicInstrumentor(LocoInstrumentor):
    """Schedules messages, beta messages and completions; counting tokens and batches pass."""

    sdk = "anthropic"
    requires = "anthropic >= 0.50, < 3"
    not_covered = ("messages.batches",)

    def list_targets(self) -> tuple[Target, ...]:
        """Return the methods that Stainless generates for all SDKs."""
        return stainless.build_targets(AnthropicAdapter())
