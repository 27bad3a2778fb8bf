"""What starting up costs: importing us, and instrumenting before any SDK is there. We must import no SDK.

As in an installation, modules are compiled before: a first run of each program writes their bytecode to a folder of its
own.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping

_RUNS = 5

_BEFORE_SDKS = """
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
print(json.dumps([[otel - start, ours - otel, installed - ours, sdk - installed], sdks]))
"""

_AFTER_OPENAI = """
import json, time
start = time.process_time()
import openai, opentelemetry.trace, opentelemetry.metrics
sdk = time.process_time()
import loco_otel
ours = time.process_time()
assert loco_otel.install() == ("loco_openai",)
print(json.dumps([[sdk - start, ours - sdk, time.process_time() - ours], []]))
"""

_INSTALL = "import loco_otel; loco_otel.install()"
_LIST_OTHERS = """
from importlib.metadata import entry_points
names = {entry.name for entry in entry_points(group="opentelemetry_instrumentor")}
print(",".join(sorted(names - {"loco_openai"})))
"""
_IMPORT_LINE = re.compile(r"import time: +(\d+) \| +\d+ \| +(\S+)")
"""A line of `-X importtime`: microseconds of the module itself, and its name."""


def _run_python(environ: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True, env=environ)


def _measure_program(program: str, environ: Mapping[str, str]) -> tuple[list[float], list[str]]:
    """Return the least milliseconds of each part of a program, and the SDKs that it had imported."""
    _run_python(environ, "-c", program)
    runs = [json.loads(_run_python(environ, "-c", program).stdout) for _ in range(_RUNS)]
    return [min(part) * 1e3 for part in zip(*(seconds for seconds, _ in runs), strict=True)], runs[0][1]


def _measure_imports(environ: Mapping[str, str]) -> dict[str, float]:
    """Return the milliseconds that the imports of an `install()` take, by top-level package."""
    sums: Counter[str] = Counter()
    for microseconds, module in _IMPORT_LINE.findall(_run_python(environ, "-X", "importtime", "-c", _INSTALL).stderr):
        sums[module.partition(".")[0]] += int(microseconds)
    return {package: total / 1e3 for package, total in sums.items()}


def run() -> None:
    """Measure in fresh interpreters and print the best of five."""
    with tempfile.TemporaryDirectory() as bytecode:
        environ = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode, "PYTHONDONTWRITEBYTECODE": ""}
        openai_alone = {
            **environ,
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": _run_python(environ, "-c", _LIST_OTHERS).stdout.strip(),
        }
        (otel, ours, install, sdk), sdks = _measure_program(_BEFORE_SDKS, environ)
        after_openai, _ = _measure_program(_AFTER_OPENAI, openai_alone)
        imports = min((_measure_imports(openai_alone) for _ in range(_RUNS)), key=lambda it: sum(it.values()))
    print(f"\nStart-up, best of {_RUNS} processes")
    print(f"  import of OpenTelemetry's SDK      {otel:7.0f} ms")
    print(f"  import of loco_otel after it       {ours:7.0f} ms")
    print(f"  loco_otel.install()                {install:7.0f} ms")
    print(f"  import of openai after that        {sdk:7.0f} ms")
    print(f"  SDKs that we imported: {', '.join(sdks) or 'none'}")
    print(f"\nAfter an import of openai, for openai alone, best of {_RUNS} processes")
    print(f"  import of openai and OTel's API    {after_openai[0]:7.0f} ms")
    print(f"  import of loco_otel after it       {after_openai[1]:7.0f} ms")
    print(f"  loco_otel.install()                {after_openai[2]:7.0f} ms (goal for both: at most 100)")
    largest = sorted(imports, key=lambda package: -imports[package])[:4]
    print(f"\nImports of an install() for openai alone, -X importtime, best of {_RUNS} processes")
    print(f"  all packages                       {sum(imports.values()):7.0f} ms")
    for package in ("loco_otel", *(name for name in largest if name != "loco_otel")):
        print(f"  {package:34} {imports[package]:7.0f} ms")
