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
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import TypeAlias

from benchmarks.call_workload import CHUNKS, SURROUNDINGS, Telemetry, Way, Workload
from benchmarks.company import Instrumentor
from loco_otel._engine import in_process, outbox
from loco_otel._runtime import runtime

_CALLS, _STREAMS = 64, 12
"""How many of a kind make the block that is counted, with the export of its spans."""
_WARM_UP = 20
_OURS, _OFFICIAL = (Instrumentor.LOCO,), (Instrumentor.OFFICIAL,)
_WAYS = (
    Way(Telemetry.NONE, _OFFICIAL),
    Way(Telemetry.NONE, _OURS),
    Way(Telemetry.NONE, _OURS, limited=True),
    Way(Telemetry.SDK, _OFFICIAL),
    Way(Telemetry.SDK, _OURS),
    Way(Telemetry.SDK, _OURS, limited=True),
    Way(Telemetry.ENCODED, _OFFICIAL),
    Way(Telemetry.ENCODED, _OURS),
)
_STREAMED = "in a span"
"""The surroundings of streams: callgrind takes minutes for them."""
_Counts: TypeAlias = Mapping[str, Mapping[str, float]]
"""Instructions of a call, a chunk, or a collection of metrics after a block of `create`; by surroundings and column."""
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
    bare = _measure_way(Way())
    counts = {way: _measure_way(way) for way in _WAYS}
    for where, base in bare.items():
        print(f"\nopenai chat.completions.create, {where}: thousands of instructions over the bare SDK, / official")
        print(f"  {'':<32}{''.join(f'{column:>20}' for column in base)}")
        print(f"  {'bare SDK':<32}{''.join(f'{count / 1e3:>14,.1f}      ' for count in base.values())}")
        for telemetry in Telemetry:
            print(f"  OpenTelemetry: {telemetry.value}")
            official = counts[Way(telemetry, _OFFICIAL)][where]
            for way in (way for way in _WAYS if way.telemetry is telemetry):
                row = ""
                for column, count in counts[way][where].items():
                    added, others = count - base[column], official[column] - base[column]
                    row += f"{added / 1e3:>14,.1f}" + (f"{added / others:>6.2f}" if column != "collection" else "")
                print(f"    {way.name:<30}{row}")


def _measure_way(way: Way) -> _Counts:
    """Return the instructions of each kind of call in one way."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "requests.c"), Path(folder, "requests.so")
        source.write_text(_REQUESTS)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
        tool = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/out"]
        program = [sys.executable, "-m", "benchmarks.instructions", str(library), *way.arguments]
        subprocess.run([*tool, *program], check=True, env=way.environ | {"PYTHONHASHSEED": "0"})
        counts: dict[str, float] = {}
        for file in sorted(Path(folder).glob("out.*"), key=lambda file: int(file.suffix[1:])):
            lines = file.read_text(errors="replace").splitlines()
            names = [line.partition("Client Request: ")[2] for line in lines if line.startswith("desc: Trigger:")]
            totals = [int(line.split()[1]) for line in lines if line.startswith(("totals:", "summary:"))]
            if names and names[0]:
                counts[names[0]] = float(totals[-1])
    few, many = CHUNKS
    found: dict[str, dict[str, float]] = {}
    for where in SURROUNDINGS:
        found[where] = {kind: counts[f"{kind} {where}"] / _CALLS for kind in ("create", "async")}
        if where == _STREAMED:
            for chunks in ("chunks", "async chunks"):
                further = counts[f"many {chunks} {where}"] - counts[f"few {chunks} {where}"]
                found[where][f"one of the {chunks}"] = further / _STREAMS / (many - few)
        found[where]["collection"] = counts[f"collection {where}"]
    return found


def _make_counted_calls(library: str, *arguments: str) -> None:
    """Make the calls of one way, in this process, which callgrind runs."""
    callgrind = ctypes.CDLL(library)
    work = Workload(Way.parse(*arguments))
    # Callgrind is fifty times slower, more on a busy machine: what happens once a second would, for each call.
    outbox._MAX_CALLER_SECONDS = in_process._HEARTBEAT = runtime._SDK_CHECK_INTERVAL = inf
    for where in SURROUNDINGS:
        for kind in work.kinds:
            work.make_calls(kind, where, _STREAMS if "chunks" in kind else _WARM_UP)
    work.make_calls("create", SURROUNDINGS[-1], _CALLS)  # all agents
    work.export_spans()
    work.collect_metrics()
    gc.collect()
    gc.freeze()
    callgrind.start()
    for where in SURROUNDINGS:
        for kind in work.kinds:
            if "chunks" in kind and where != _STREAMED:
                continue
            work.make_calls(kind, where, 2)
            work.export_spans()
            work.collect_metrics()
            gc.collect()
            # Among so few streams it is chance which of them the collector runs in.
            (gc.disable if "chunks" in kind else gc.enable)()
            callgrind.zero()
            work.make_calls(kind, where, _STREAMS if "chunks" in kind else _CALLS)
            work.export_spans()
            callgrind.dump(f"{kind} {where}".encode())
            if kind == "create":
                callgrind.zero()
                work.collect_metrics()
                callgrind.dump(f"collection {where}".encode())
    os._exit(0)  # without the work of an exit, which takes minutes under callgrind


if __name__ == "__main__":
    _make_counted_calls(*sys.argv[1:])
