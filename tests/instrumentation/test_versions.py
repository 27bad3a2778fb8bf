"""The SDK versions that are tested are those that are meant, and the oldest is where support begins."""

from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
import wrapt
from loco_otel_instrumentation.anthropic import AnthropicInstrumentor
from loco_otel_instrumentation.groq import GroqInstrumentor
from loco_otel_instrumentation.openai import OpenAIInstrumentor
from packaging.requirements import Requirement
from sdk_versions import PAIR, PAIRS

from loco_otel.patching import LocoInstrumentor

OVERLAYS = Path(__file__).parents[2] / ".venv" / "pairs"

INSTRUMENTORS = {"openai": OpenAIInstrumentor, "anthropic": AnthropicInstrumentor, "groq": GroqInstrumentor}

each_instrumentor = pytest.mark.parametrize("instrumentor", INSTRUMENTORS.values(), ids=list(INSTRUMENTORS))


def required(pair: str) -> dict[str, Requirement]:
    lines = PAIRS.joinpath(f"{pair}.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if not line.startswith("#")]
    return {requirement.name: requirement for requirement in found}


@each_instrumentor
def test_installed_pair_is_the_configured_one(instrumentor: type[LocoInstrumentor]) -> None:
    sdk = instrumentor.sdk
    wanted = required(PAIR) if PAIR else {}
    if sdk in wanted:
        assert version(sdk) in wanted[sdk].specifier
        assert OVERLAYS / PAIR in Path(import_module(sdk).__file__ or "").parents
    assert import_module(f"{sdk}._version").__version__ == version(sdk)
    assert instrumentor.supports_version(version(sdk))


def test_installed_wrapt_is_that_of_the_pair() -> None:
    wanted = required(PAIR) if PAIR else {}
    if "wrapt" in wanted:
        assert version("wrapt") in wanted["wrapt"].specifier
        assert OVERLAYS / PAIR in Path(wrapt.__file__).parents
    assert wrapt.__version__ == version("wrapt")


@each_instrumentor
def test_support_starts_with_the_oldest_pair(instrumentor: type[LocoInstrumentor]) -> None:
    (oldest,) = required("oldest")[instrumentor.sdk].specifier
    (floor,) = (it for it in Requirement(instrumentor.requires).specifier if it.operator == ">=")
    assert oldest.version.startswith(floor.version)
