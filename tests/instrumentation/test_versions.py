"""The SDK versions that are tested are those that are meant, and the oldest is where support begins."""

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import wrapt
from loco_otel_instrumentation.anthropic import AnthropicInstrumentor
from loco_otel_instrumentation.botocore import AiobotocoreInstrumentor, BotocoreInstrumentor
from loco_otel_instrumentation.groq import GroqInstrumentor
from loco_otel_instrumentation.openai import OpenAIInstrumentor
from packaging.requirements import Requirement
from sdk_versions import PAIR, PAIRS

from loco_otel.patching import LocoInstrumentor

OVERLAYS = Path(__file__).parents[2] / ".venv" / "pairs"

INSTRUMENTORS: dict[str, type[LocoInstrumentor]] = {
    "openai": OpenAIInstrumentor,
    "anthropic": AnthropicInstrumentor,
    "groq": GroqInstrumentor,
    "botocore": BotocoreInstrumentor,
    "aiobotocore": AiobotocoreInstrumentor,
}

each_instrumentor = pytest.mark.parametrize("instrumentor", INSTRUMENTORS.values(), ids=list(INSTRUMENTORS))


def required(pair: str) -> dict[str, Requirement]:
    lines = PAIRS.joinpath(f"{pair}.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if not line.startswith("#")]
    return {requirement.name: requirement for requirement in found}


@each_instrumentor
def test_the_pair_under_test_is_the_one_that_is_meant(instrumentor: type[LocoInstrumentor]) -> None:
    sdk = instrumentor.sdk
    if find_spec(sdk) is None:
        pytest.skip(f"{sdk} is not installed")
    wanted = required(PAIR) if PAIR else {}
    if sdk in wanted:
        assert version(sdk) in wanted[sdk].specifier
        assert OVERLAYS / PAIR in Path(import_module(sdk).__file__ or "").parents
    module = import_module(sdk if sdk.endswith("botocore") else f"{sdk}._version")
    assert module.__version__ == version(sdk)
    assert instrumentor.supports_version(version(sdk))


def test_the_wrapt_under_test_is_that_of_the_pair() -> None:
    wanted = required(PAIR) if PAIR else {}
    if "wrapt" in wanted:
        assert version("wrapt") in wanted["wrapt"].specifier
        assert OVERLAYS / PAIR in Path(wrapt.__file__).parents
    assert wrapt.__version__ == version("wrapt")


@each_instrumentor
def test_support_begins_with_the_oldest_pair(instrumentor: type[LocoInstrumentor]) -> None:
    (oldest,) = required("oldest")[instrumentor.sdk].specifier
    (floor,) = (it for it in Requirement(instrumentor.requires).specifier if it.operator == ">=")
    assert oldest.version.startswith(floor.version)
