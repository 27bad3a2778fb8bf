"""What an instrumented call costs over the bare SDK, in instructions: unlike times, they do not depend on the load.

Each way runs in a process of its own under valgrind's callgrind. It needs `valgrind` with its headers, and `cc`, which
compiles the requests by which a process selects what callgrind counts.
"""

import ctypes
import gc
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from math import inf
from pathlib import Path

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from benchmarks.called import CountingExporter, make_calls
from benchmarks.company import Instrumentor
from loco_otel._engine import in_process, outbox

_CALLS = 64
_WARM_UP = 20
_KINDS = ("create", "async")
_SURROUNDINGS = ("alone", "in a span")
_WAYS = ("", "otel official", "otel loco_otel", "official", "loco_otel")
"""An OpenTelemetry SDK or none, and the instrumentor; the bare SDK first."""
_REQUESTS = """
#include <valgrind/callgrind.h>
void start(void) { CALLGRIND_START_INSTRUMENTATION; }
void zero(void) { CALLGRIND_ZERO_STATS; }
void dump(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }
"""


def run() -> None:
    """Measure and print."""
    if shutil.which("valgrind") is None or shutil.which("cc") is None:
        print("\ninstructions of a call: not measured, as valgrind or cc is missing")
        return
    print(
        f"\nopenai chat.completions.create on a mock transport: thousands of instructions over the bare SDK ({_CALLS})"
    )
    bare: dict[str, float] = {}
    for way in _WAYS:
        counts = _measure_way(way)
        bare = bare or counts
        row = "".join(f"{(count - bare[name]) / 1e3:>20,.0f}" for name, count in counts.items())
        print(f"  {way or 'bare SDK':<20}{row}" if way else f"  {'':<20}{''.join(f'{name:>20}' for name in counts)}")


def _measure_way(way: str) -> dict[str, float]:
    """Return the instructions of a call, by kind and surroundings."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "requests.c"), Path(folder, "requests.so")
        source.write_text(_REQUESTS)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
        tool = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/out"]
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "LOCO_", "OPENAI_"))}
        folders = [str(Instrumentor(name).folder) for name in way.split() if name != "otel"]
        environ |= {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(folders)}
        program = [sys.executable, "-m", "benchmarks.instructions", str(library), way]
        subprocess.run([*tool, *program], check=True, env=environ)
        counts = {}
        for file in sorted(Path(folder).glob("out.*"), key=lambda file: int(file.suffix[1:])):
            lines = file.read_text(errors="replace").splitlines()
            names = [line.partition("Client Request: ")[2] for line in lines if line.startswith("desc: Trigger:")]
            totals = [int(line.split()[1]) for line in lines if line.startswith(("totals:", "summary:"))]
            if names and names[0]:
                counts[names[0]] = totals[-1] / _CALLS
        return counts


def _make_counted_calls(library: str, way: str) -> None:
    """Make the calls of one way, in this process, which callgrind runs."""
    callgrind = ctypes.CDLL(library)
    names = way.split()
    provider = TracerProvider()
    if "otel" in names:
        provider.add_span_processor(BatchSpanProcessor(CountingExporter()))
        trace.set_tracer_provider(provider)
        metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
    for name in names:
        if name != "otel":
            Instrumentor(name).instrument()
    # Callgrind is fifty times slower: the timer would run more often for each call, and deliver the events.
    outbox._MAX_CALLER_SECONDS = in_process._HEARTBEAT = inf
    calls = make_calls()
    tracer = trace.get_tracer("program")
    around = {"alone": nullcontext, "in a span": lambda: tracer.start_as_current_span("program")}
    for where in _SURROUNDINGS:
        for kind in _KINDS:
            with around[where]():
                calls[kind][1](_WARM_UP)
    gc.collect()
    gc.freeze()
    callgrind.start()
    for where in _SURROUNDINGS:
        for kind in _KINDS:
            with around[where]():
                calls[kind][1](2)
                provider.force_flush()
                gc.collect()
                callgrind.zero()
                calls[kind][1](_CALLS)
                provider.force_flush()
                callgrind.dump(f"{kind} {where}".encode())
    os._exit(0)  # without the work of an exit, which takes minutes under callgrind


if __name__ == "__main__":
    _make_counted_calls(*sys.argv[1:])
