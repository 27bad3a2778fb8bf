"""What starting up costs: importing us, and instrumenting before any SDK is there. We must import no SDK."""

import json
import subprocess
import sys

_PROGRAM = """
import json, sys, time
start = time.perf_counter()
import opentelemetry.sdk.trace, opentelemetry.instrumentation.instrumentor
otel = time.perf_counter()
import loco_otel
ours = time.perf_counter()
loco_otel.install()
installed = time.perf_counter()
sdks = [name for name in ("openai", "anthropic", "httpx", "httpx2") if name in sys.modules]
import openai
sdk = time.perf_counter()
print(json.dumps([otel - start, ours - otel, installed - ours, sdk - installed, sdks]))
"""


def run() -> None:
    """Measure in fresh interpreters and print the best of five."""
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True).stdout)
        for _ in range(5)
    ]
    otel, ours, install, sdk = (min(run[part] for run in runs) * 1e3 for part in range(4))
    print("\nStart-up, wall time, best of 5 processes")
    print(f"  import of OpenTelemetry's SDK      {otel:7.0f} ms")
    print(f"  import of loco_otel after it       {ours:7.0f} ms")
    print(f"  loco_otel.install()                {install:7.0f} ms")
    print(f"  import of openai after that        {sdk:7.0f} ms")
    print(f"  SDKs that we imported: {', '.join(runs[0][4]) or 'none'}")
