"""What starting up costs: importing us, and instrumenting before any SDK is there. We must import no SDK."""

import json
import os
import re
import subprocess
import sys
from collections import Counter

_PROGRAM = """
import json, sys, time
start = time.process_time()
import opentelemetry.sdk.trace, opentelemetry.instrumentation.instrumentor
otel = time.process_time()
import loco_otel
ours = time.process_time()
loco_otel.install()
installed = time.process_time()
sdks = [name for name in ("openai", "anthropic", "httpx", "httpx2") if name in sys.modules]
import openai
sdk = time.process_time()
print(json.dumps([otel - start, ours - otel, installed - ours, sdk - installed, sdks]))
"""


_INSTALL = "import loco_otel; loco_otel.install()"
_ONE_SDK = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "loco_anthropic,loco_google_genai,loco_groq"}
_IMPORT_LINE = re.compile(r"import time: +(\d+) \| +\d+ \| +(\S+)")
"""A line of `-X importtime`: microseconds of the module itself, and its name."""


def _measure_imports() -> dict[str, float]:
    """Return the milliseconds that the imports of an `install()` for openai take, by top-level package."""
    command = [sys.executable, "-X", "importtime", "-c", _INSTALL]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **_ONE_SDK})
    sums: Counter[str] = Counter()
    for microseconds, module in _IMPORT_LINE.findall(done.stderr):
        sums[module.partition(".")[0]] += int(microseconds)
    return {package: total / 1e3 for package, total in sums.items()}


def run() -> None:
    """Measure in fresh interpreters and print the best of five."""
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True).stdout)
        for _ in range(5)
    ]
    otel, ours, install, sdk = (min(run[part] for run in runs) * 1e3 for part in range(4))
    print("\nStart-up, best of 5 processes")
    print(f"  import of OpenTelemetry's SDK      {otel:7.0f} ms")
    print(f"  import of loco_otel after it       {ours:7.0f} ms")
    print(f"  loco_otel.install()                {install:7.0f} ms")
    print(f"  import of openai after that        {sdk:7.0f} ms")
    print(f"  SDKs that we imported: {', '.join(runs[0][4]) or 'none'}")
    imports = min((_measure_imports() for _ in range(5)), key=lambda packages: sum(packages.values()))
    largest = sorted(imports, key=lambda package: -imports[package])[:4]
    print("\nImports of an install() for openai alone, -X importtime, best of 5 processes")
    print(f"  all packages                       {sum(imports.values()):7.0f} ms")
    for package in ("loco_otel", *(name for name in largest if name != "loco_otel")):
        print(f"  {package:34} {imports[package]:7.0f} ms")
