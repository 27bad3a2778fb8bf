"""The distribution: one wheel with both packages, typed, with the entry points that OpenTelemetry reads."""

from importlib.metadata import distribution, entry_points
from importlib.resources import files

import loco_otel
from loco_otel.patching import LocoInstrumentor


def test_version_is_that_of_the_distribution() -> None:
    assert distribution("loco-otel").version == loco_otel.__version__


def test_both_packages_are_typed() -> None:
    for package in ("loco_otel", "loco_otel_instrumentation"):
        assert files(package).joinpath("py.typed").is_file()


def test_entry_points_load() -> None:
    ours = {
        entry.name: entry for entry in entry_points(group="opentelemetry_instrumentor") if entry.name[:5] == "loco_"
    }
    sdks = {"openai", "anthropic", "google_genai", "groq", "botocore", "aiobotocore", "mistralai", "cohere", "ollama"}
    sdks |= {"azure_ai_inference", "huggingface_hub", "litellm", "httpx", "httpx2", "claude_agent_sdk"}
    assert ours.keys() == {f"loco_{sdk}" for sdk in sdks}
    for entry in ours.values():
        assert issubclass(entry.load(), LocoInstrumentor)


def test_public_names_exist() -> None:
    for name in loco_otel.__all__:
        assert getattr(loco_otel, name) is not None
