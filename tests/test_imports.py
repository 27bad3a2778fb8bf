"""What `install()` must not import: the SDKs, and what budgets, files, commands, exporters and other SDKs need."""

import json
import subprocess
import sys

import pytest

LAZY = (
    *("genai_prices", "click", "rich", "prometheus_client", "pydantic_settings", "dotenv", "openai", "anthropic"),
    *("groq", "google.genai", "loco_otel.compat", "loco_otel.cli", "loco_otel.simulation", "loco_otel._engine.redis"),
    *("redis", "opentelemetry.sdk", "sqlite3", "tomllib", "difflib"),
    *("loco_otel._telemetry.pipeline", "loco_otel._telemetry.gauges", "loco_otel._telemetry.catalogue"),
    *("loco_otel._telemetry.blame", "loco_otel._telemetry.metrics", "loco_otel._telemetry.spans"),
)
OF_OTHER_SDKS = (
    *("loco_otel_instrumentation.botocore", "loco_otel.patching.attempt_wrappers", "loco_otel.patching.event_stream"),
    *("loco_otel.patching.generator_wrappers", "loco_otel.patching.managed_wrappers", "loco_otel.patching.speakeasy"),
    *("loco_otel.patching.decision_wrappers", "loco_otel.patching.iterator_body", "loco_otel.patching.stream_proxy"),
    *("loco_otel.patching.turns", "loco_otel.patching.dialects.anthropic_messages"),
)
DISABLE_OTHER_SDKS = """
import os
from importlib.metadata import entry_points
names = [entry.name for entry in entry_points(group="opentelemetry_instrumentor")]
os.environ["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = ",".join(name for name in names if name != "loco_openai")
"""
PROGRAM = """
import json, sys
import loco_otel
assert loco_otel.install()
print(json.dumps(list(sys.modules)))
"""


def list_imported(program: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("environ", [{}, {"LOCO_CAPACITY": "4", "LOCO_POLICY": "fair"}])
def test_install_imports_no_optional_library(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert list_imported(PROGRAM).isdisjoint(LAZY)


def test_install_of_one_sdk_imports_no_code_of_others() -> None:
    imported = list_imported(DISABLE_OTHER_SDKS + PROGRAM)
    assert imported.isdisjoint((*LAZY, *OF_OTHER_SDKS))
    assert "loco_otel_instrumentation.openai.adapter" in imported
