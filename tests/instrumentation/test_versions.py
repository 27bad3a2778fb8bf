"""The SDK versions that are tested are those that are meant, and the oldest is where support begins."""

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import wrapt
from loco_otel_instrumentation.anthropic import AnthropicInstrumentor
from loco_otel_instrumentation.azure_ai_inference import AzureInferenceInstrumentor
from loco_otel_instrumentation.botocore import AiobotocoreInstrumentor, BotocoreInstrumentor
from loco_otel_instrumentation.claude_agent_sdk import ClaudeAgentInstrumentor
from loco_otel_instrumentation.cohere import CohereInstrumentor
from loco_otel_instrumentation.google_genai import GoogleGenaiInstrumentor
from loco_otel_instrumentation.groq import GroqInstrumentor
from loco_otel_instrumentation.http import Httpx2Instrumentor, HttpxInstrumentor
from loco_otel_instrumentation.huggingface_hub import HuggingFaceInstrumentor
from loco_otel_instrumentation.litellm import LiteLLMInstrumentor
from loco_otel_instrumentation.mistralai import MistralInstrumentor
from loco_otel_instrumentation.ollama import OllamaInstrumentor
from loco_otel_instrumentation.openai import OpenAIInstrumentor
from mistral_clients import PACKAGE as MISTRAL_PACKAGE
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from sdk_versions import PAIR, PAIRS

from loco_otel.patching import LocoInstrumentor

OVERLAYS = Path(__file__).parents[2] / ".venv" / "pairs"

INSTRUMENTORS: dict[str, type[LocoInstrumentor]] = {
    "openai": OpenAIInstrumentor,
    "anthropic": AnthropicInstrumentor,
    "groq": GroqInstrumentor,
    "litellm": LiteLLMInstrumentor,
    "google-genai": GoogleGenaiInstrumentor,
    "mistralai": MistralInstrumentor,
    "ollama": OllamaInstrumentor,
    "cohere": CohereInstrumentor,
    "huggingface-hub": HuggingFaceInstrumentor,
    "azure-ai-inference": AzureInferenceInstrumentor,
    "claude-agent-sdk": ClaudeAgentInstrumentor,
    "botocore": BotocoreInstrumentor,
    "aiobotocore": AiobotocoreInstrumentor,
    "httpx": HttpxInstrumentor,
    "httpx2": Httpx2Instrumentor,
}
VERSION_MODULES = {
    "google.genai": "google.genai.version",
    "litellm": "litellm._version",
    "httpx": "httpx",
    "httpx2": "httpx2",
    "botocore": "botocore",
    "aiobotocore": "aiobotocore",
    "mistralai": f"{MISTRAL_PACKAGE}._version",
    "ollama": "ollama._client",
    "cohere": "cohere.version",
    "huggingface_hub": "huggingface_hub",
    "azure.ai.inference": "azure.ai.inference._version",
}

each_instrumentor = pytest.mark.parametrize("instrumentor", INSTRUMENTORS.values(), ids=list(INSTRUMENTORS))


def required(pair: str) -> dict[str, Requirement]:
    lines = PAIRS.joinpath(f"{pair}.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line[:1].isalpha()]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def find_oldest(sdk: str) -> Version:
    """Return the oldest version of an SDK that a pair pins."""
    pins = [required(path.stem).get(canonicalize_name(sdk)) for path in PAIRS.glob("*.txt")]
    return min(Version(it.version.removesuffix(".*")) for pin in pins if pin is not None for it in pin.specifier)


@each_instrumentor
def test_installed_pair_is_the_configured_one(instrumentor: type[LocoInstrumentor]) -> None:
    sdk = instrumentor.sdk
    if find_spec(sdk) is None:
        pytest.skip(f"{sdk} is not installed")
    wanted = required(PAIR).get(canonicalize_name(sdk)) if PAIR else None
    if wanted is not None:
        assert version(sdk) in wanted.specifier
        assert OVERLAYS / PAIR in Path(import_module(sdk).__file__ or "").parents
    module = import_module(VERSION_MODULES.get(sdk, f"{sdk}._version"))
    version_name = "version" if sdk == "litellm" else "__version__"
    assert (getattr(module, version_name, None) or module.VERSION) == version(sdk)
    assert instrumentor.supports_version(version(sdk))


def test_installed_wrapt_is_that_of_the_pair() -> None:
    wanted = required(PAIR) if PAIR else {}
    if "wrapt" in wanted:
        assert version("wrapt") in wanted["wrapt"].specifier
        assert OVERLAYS / PAIR in Path(wrapt.__file__).parents
    assert wrapt.__version__ == version("wrapt")


@each_instrumentor
def test_support_starts_with_the_oldest_pair(instrumentor: type[LocoInstrumentor]) -> None:
    (floor,) = (it for it in Requirement(instrumentor.requires).specifier if it.operator == ">=")
    assert find_oldest(instrumentor.sdk) == Version(floor.version)
