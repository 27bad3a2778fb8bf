"""Ours beside the instrumentation of others: every call is scheduled once, and has exactly one inference span.

Their packages are installed by `make company`, each vendor's in a folder of its own: in the environment of the tests
their entry points would instrument whatever else is launched.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import llm_server
import pytest
from llm_server import LlmServer as ConformanceServer
from patience import PATIENCE
from sdk_server import LlmServer

PROGRAM = Path(__file__).with_name("company_program.py")
SUPPORT = Path(llm_server.__file__).parents[1]
FOLDERS = Path(sys.prefix) / "company"
VENDORS = ("official", "openllmetry", "openinference")
SDKS = ("openai", "anthropic")
OURS = "loco_otel"
NATIVE = "com.anthropic.sdk.python"

FURTHER = (
    ("openllmetry", "groq"),
    ("openinference", "groq"),
    ("official", "gemini"),
    ("openllmetry", "gemini"),
    ("openinference", "gemini"),
    ("official", "botocore"),
    ("openllmetry", "botocore"),
    ("openinference", "botocore"),
    ("botocore", "botocore"),
    ("openllmetry", "cohere"),
    ("openllmetry", "ollama"),
    ("openinference", "litellm"),
    ("openinference", "mistral"),
    ("agentops", "openai"),
    ("logfire", "openai"),
    ("logfire", "anthropic"),
)
"""Further vendors and SDKs. AgentOps's instrumentor of anthropic is left out: alone, it returns exhausted streams."""

APIS = {
    "groq": "groq",
    "gemini": "gemini",
    "botocore": "bedrock",
    "mistral": "mistral",
    "cohere": "cohere",
    "ollama": "ollama",
    "litellm": "openai",
}
"""Of further SDKs: the API of the test server."""

STAYS = {("openllmetry", "openai")}
"""Those whose `uninstrument` does nothing, so that theirs remains the inference span."""

NOT_CURRENT = {
    ("openllmetry", "openai", "responses"),
    ("openllmetry", "openai", "async responses"),
    ("openllmetry", "anthropic", "create"),
    ("openllmetry", "anthropic", "stream"),
    ("openllmetry", "anthropic", "helper"),
    ("openllmetry", "anthropic", "async create"),
    ("openllmetry", "anthropic", "async stream"),
    ("openllmetry", "anthropic", "async helper"),
    ("openllmetry", "anthropic", "broken off"),
    ("openinference", "anthropic", "helper"),
    ("openinference", "anthropic", "async helper"),
}
"""Calls during which their span is not the current one, so that it cannot get the duration of the wait."""

LOST = {
    ("openllmetry", "anthropic", "broken off"),
    ("openllmetry", "gemini", "broken off"),
    ("openllmetry", "botocore", "broken off"),
    ("agentops", "openai", "broken off"),
    # It has no wrapper for responses, and the span of the stream broken off before is still the current one.
    ("agentops", "openai", "responses"),
    ("agentops", "openai", "async responses"),
}
"""Calls whose span they begin and never end, with or without us."""

Rounds = list[dict[str, dict[str, Any]]]


def rounds(
    server: LlmServer | ConformanceServer, sdk: str, vendor: str, steps: str, *, launch: bool = False, **environ: str
) -> Rounds:
    """Run the program, and return what was seen of the calls of each round."""
    folder = FOLDERS / vendor
    assert vendor == "nobody" or folder.is_dir(), f"{folder} is not there: run `make company`"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{folder}{os.pathsep}{SUPPORT}",
        "LOCO_CAPACITY": "1",
        "ANTHROPIC_OPEN_TELEMETRY": "false",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "LANGFUSE_BASE_URL": server.url("anthropic"),
        **environ,
    }
    launcher = [str(Path(sys.executable).with_name("opentelemetry-instrument"))] if launch else []
    if launch:
        environment.setdefault("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", list_other_instrumentors(folder, sdk))
    url = server.url("anthropic").removesuffix("/anthropic") if sdk in SDKS else server.url(APIS[sdk])
    command = [*launcher, sys.executable, str(PROGRAM), sdk, url, vendor, steps]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert "Failed to detach context" not in done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def list_other_instrumentors(folder: Path, sdk: str) -> str:
    """Return the vendor's instrumentors of other SDKs, whose import takes seconds."""
    points = [point for package in distributions(path=[str(folder)]) for point in package.entry_points]
    return ",".join(it.name for it in points if it.group == "opentelemetry_instrumentor" and sdk not in it.name)


def check(
    vendor: str, sdk: str, seen: Mapping[str, Mapping[str, Any]], *, scheduled: bool, told_by: str | None
) -> None:
    """Check each call: whether it was scheduled, once, and the source of its one inference span, if any."""
    assert seen
    for name, call in seen.items():
        once = int(scheduled)
        assert (call["granted"], call["released"], call["acquired"]) == (once, once, once), name
        assert call["errors"] == 0, name
        if told_by is None or (told_by == "theirs" and (vendor, sdk, name) in LOST):
            assert call["inference"] == [], name
        elif told_by == "theirs":
            scopes = call["inference"]
            assert OURS not in scopes, name
            # Logfire adds a record of each stream that has been read.
            assert len(scopes) == 1 or (vendor == "logfire" and len(scopes) == 2), name
        else:
            assert call["inference"] == [told_by], name


def check_waits(vendor: str, sdk: str, seen: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that their span has the duration of the wait."""
    told = {name: call["wait"] for name, call in seen.items()}
    assert told == {name: int((vendor, sdk, name) not in NOT_CURRENT) for name in seen}


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("vendor", VENDORS)
def test_our_instrumentor_loaded_first_schedules(vendor: str, sdk: str, company_server: LlmServer) -> None:
    steps = "ours,theirs,calls,ours-off,calls,ours,calls,theirs-off,calls,ours-off,calls,ours,calls"
    both, theirs, healed, ours, nobody, again = rounds(company_server, sdk, vendor, steps)
    stays = (vendor, sdk) in STAYS
    check(vendor, sdk, both, scheduled=True, told_by="theirs")
    check_waits(vendor, sdk, both)
    check(vendor, sdk, theirs, scheduled=False, told_by="theirs")
    check(vendor, sdk, healed, scheduled=True, told_by="theirs")
    check(vendor, sdk, ours, scheduled=True, told_by="theirs" if stays else OURS)
    check(vendor, sdk, nobody, scheduled=False, told_by="theirs" if stays else None)
    check(vendor, sdk, again, scheduled=True, told_by="theirs" if stays else OURS)


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("vendor", VENDORS)
def test_our_instrumentor_loaded_second_schedules(vendor: str, sdk: str, company_server: LlmServer) -> None:
    steps = "theirs,ours,calls,ours-off,calls,ours,theirs-off,calls"
    both, theirs, ours = rounds(company_server, sdk, vendor, steps)
    check(vendor, sdk, both, scheduled=True, told_by="theirs")
    check_waits(vendor, sdk, both)
    check(vendor, sdk, theirs, scheduled=False, told_by="theirs")
    check(vendor, sdk, ours, scheduled=True, told_by="theirs" if (vendor, sdk) in STAYS else OURS)


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("vendor", VENDORS)
def test_launcher_instruments_both(vendor: str, sdk: str, company_server: LlmServer) -> None:
    steps = "calls,ours-off,calls,ours,theirs-off,calls"
    both, theirs, ours = rounds(company_server, sdk, vendor, steps, launch=True)
    check(vendor, sdk, both, scheduled=True, told_by="theirs")
    check_waits(vendor, sdk, both)
    check(vendor, sdk, theirs, scheduled=False, told_by="theirs")
    check(vendor, sdk, ours, scheduled=True, told_by="theirs" if (vendor, sdk) in STAYS else OURS)


@pytest.mark.parametrize("sdk", SDKS)
def test_launcher_without_ours_instruments_theirs(sdk: str, company_server: LlmServer) -> None:
    without = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": f"loco_{sdk}"}
    (theirs,) = rounds(company_server, sdk, "official", "calls", launch=True, **without)
    check("official", sdk, theirs, scheduled=False, told_by="theirs")


@pytest.mark.parametrize("launch", [False, True])
def test_anthropics_own_tracing_makes_one_span(launch: bool, company_server: LlmServer) -> None:
    steps = "calls" if launch else "ours,calls,ours-off,calls"
    on = rounds(company_server, "anthropic", "nobody", steps, launch=launch, ANTHROPIC_OPEN_TELEMETRY="true")
    check("nobody", "anthropic", on[0], scheduled=True, told_by=NATIVE)
    assert {call["wait"] for call in on[0].values()} == {1}
    off = rounds(company_server, "anthropic", "nobody", steps, launch=launch)
    check("nobody", "anthropic", off[0], scheduled=True, told_by=OURS)
    if not launch:
        check("nobody", "anthropic", on[1], scheduled=False, told_by=NATIVE)
        check("nobody", "anthropic", off[1], scheduled=False, told_by=None)


@pytest.mark.parametrize("vendor", VENDORS)
def test_anthropics_own_tracing_beside_theirs_adds_none_of_ours(vendor: str, company_server: LlmServer) -> None:
    (both,) = rounds(company_server, "anthropic", vendor, "theirs,ours,calls", ANTHROPIC_OPEN_TELEMETRY="true")
    for name, call in both.items():
        assert (call["granted"], call["released"]) == (1, 1), name
        assert len(call["inference"]) == (1 if (vendor, "anthropic", name) in LOST else 2), name
        assert OURS not in call["inference"]


@pytest.fixture(scope="module")
def conformance_server() -> Iterator[ConformanceServer]:
    with ConformanceServer() as server:
        yield server


@pytest.mark.parametrize(("vendor", "sdk"), FURTHER)
def test_further_sdk_has_one_inference_span_in_any_order(
    vendor: str, sdk: str, company_server: LlmServer, conformance_server: ConformanceServer
) -> None:
    # Ours is first the inner one and then the outer one.
    server = company_server if sdk in SDKS else conformance_server
    inner, theirs, outer = rounds(server, sdk, vendor, "ours,theirs,calls,ours-off,calls,ours,calls")
    check(vendor, sdk, inner, scheduled=True, told_by="theirs")
    check(vendor, sdk, theirs, scheduled=False, told_by="theirs")
    check(vendor, sdk, outer, scheduled=True, told_by="theirs")


LANGFUSE_KEYS = {"LANGFUSE_PUBLIC_KEY": "none", "LANGFUSE_SECRET_KEY": "none"}


@pytest.mark.parametrize("first", ["ours,theirs", "theirs,ours"])
def test_langfuse_drop_in_has_the_only_span(first: str, company_server: LlmServer) -> None:
    (both,) = rounds(company_server, "openai", "langfuse", f"{first},calls", **LANGFUSE_KEYS)
    check("langfuse", "openai", both, scheduled=True, told_by="theirs")
    check_waits("langfuse", "openai", both)


def test_langfuse_without_keys_leaves_the_span_to_us(company_server: LlmServer) -> None:
    (both,) = rounds(company_server, "openai", "langfuse", "ours,theirs,calls")
    check("langfuse", "openai", both, scheduled=True, told_by=OURS)
