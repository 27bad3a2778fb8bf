"""What `install()` must not import: what only a budget, a file, a command or an exporter needs, and the SDKs."""

import json
import subprocess
import sys

import pytest

LAZY = (
    *("genai_prices", "click", "rich", "prometheus_client", "pydantic_settings", "dotenv", "openai", "anthropic"),
    *("groq", "google.genai", "loco_otel.compat", "loco_otel.cli", "loco_otel.simulation", "loco_otel._engine.redis"),
    *("redis", "opentelemetry.sdk", "sqlite3", "tomllib", "difflib"),
)

PROGRAM = f"""
import json, sys
import loco_otel
assert loco_otel.install()
loaded = [name for name in {LAZY!r} if name in sys.modules]
print(json.dumps(loaded))
"""


@pytest.mark.parametrize("environ", [{}, {"LOCO_CAPACITY": "4", "LOCO_POLICY": "fair"}])
def test_install_imports_no_optional_library(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=100)
    assert json.loads(done.stdout) == []
