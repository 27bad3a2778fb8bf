"""One child of the benchmark of calls: makes them in one way, and prints what each took.

Run as `python -m benchmarks.called TELEMETRY NAME...`, see `benchmarks.call_workload.Way`.
"""

import gc
import json
import sys
import time

from benchmarks.call_workload import SURROUNDINGS, Way, Workload

_BLOCKS = 3
_BLOCK_CALLS = {"create": 64, "async": 64}
_BLOCK_STREAMS = 16


def main() -> None:
    """Print microseconds of CPU time per call, by surroundings and kind, and how many spans a create has.

    Of each kind the median block counts. A block includes the export of its spans; `collection` is what the metrics
    take after a block of `create`.
    """
    work = Workload(Way.parse(*sys.argv[1:]))
    for where in SURROUNDINGS:
        for kind in work.kinds:
            work.make_calls(kind, where, _BLOCK_STREAMS)
    spans = {where: work.count_spans(where) for where in SURROUNDINGS}
    gc.collect()
    gc.freeze()
    times: dict[str, dict[str, list[float]]] = {
        where: {kind: [] for kind in (*work.kinds, "collection")} for where in SURROUNDINGS
    }
    for _ in range(_BLOCKS):
        for where, blocks in times.items():
            for kind in work.kinds:
                count = _BLOCK_CALLS.get(kind, _BLOCK_STREAMS)
                started = time.process_time()
                work.make_calls(kind, where, count)
                work.export_spans()
                ended = time.process_time()
                blocks[kind].append((ended - started) / count * 1e6)
                work.collect_metrics()
                if kind == "create":
                    blocks["collection"].append((time.process_time() - ended) * 1e6)
    medians = {
        where: {kind: sorted(each)[_BLOCKS // 2] for kind, each in blocks.items()} for where, blocks in times.items()
    }
    print(json.dumps({"spans": spans, "times": medians}))


if __name__ == "__main__":
    main()
