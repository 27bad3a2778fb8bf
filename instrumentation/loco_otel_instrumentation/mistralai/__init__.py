"""Mistral's SDK, with its clients for Azure and for Vertex AI."""

from loco_otel.patching import LocoInstrumentor, Target, is_installed, speakeasy, wrappers
from loco_otel_instrumentation.mistralai.adapter import MistralAdapter
from loco_otel_instrumentation.mistralai.own_tracing import HOOK, find_span

__all__ = ["MistralInstrumentor"]

_PROVIDERS = {"": "mistral_ai", "azure": "azure.ai.inference", "gcp": "gcp.vertex_ai"}
"""`gen_ai.provider.name` by the part of the SDK that a client is in."""
_HAS_CLIENT = "mistralai >= 2"
"""Versions whose clients are in packages of the name `client`."""


class MistralInstrumentor(LocoInstrumentor):
    """Schedules chat, agents, conversations, responses, FIM and embeddings; OCR, audio, moderation and jobs pass."""

    sdk = "mistralai"
    requires = "mistralai >= 1.9.1, < 4"
    not_covered = ("ocr", "audio", "classifiers", "batch.jobs")

    def list_targets(self) -> tuple[Target, ...]:
        """Return the methods that Speakeasy generates, of each of the three packages, and the hook that makes spans."""
        is_old = not is_installed(_HAS_CLIENT)
        tracing = f"{_name_package('', is_old=is_old)}._hooks.tracing"
        calls = tuple(
            target
            for part, provider in _PROVIDERS.items()
            for target in speakeasy.build_single_class_targets(
                MistralAdapter(provider), _name_package(part, is_old=is_old)
            )
        )
        return (*calls, Target(tracing, HOOK, "before_request", wrappers.observe_made_span(find_span)))


def _name_package(part: str, *, is_old: bool) -> str:
    if is_old:
        return f"mistralai_{part}" if part else "mistralai"
    return f"mistralai.{part}.client" if part else "mistralai.client"
