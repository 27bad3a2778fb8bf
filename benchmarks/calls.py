"""What an instrumented call costs over the bare SDK, on a transport that answers at once, and what others' cost.

Each way runs in processes of its own, in turn.
"""

import json
import os
import subprocess
import sys
from typing import Any, NamedTuple

from benchmarks.called import CHUNKS
from benchmarks.company import Instrumentor

_ROUNDS = 6
_FOREIGN = ("OTEL_", "LOCO_", "OPENAI_", "TRACELOOP_", "OPENINFERENCE_")
"""Settings of whoever runs this, which are none of the benchmark's."""


class Way(NamedTuple):
    """A way to run the calls."""

    otel: bool
    """With an OpenTelemetry SDK set up."""
    instrumentors: tuple[Instrumentor, ...] = ()


class Cost(NamedTuple):
    """Microseconds of a call, or those that a way adds."""

    create: float
    async_create: float
    stream: float
    chunk: float
    """Each further chunk of a stream."""

    def over(self, other: "Cost") -> "Cost":
        """Return the difference."""
        return Cost(*(mine - others for mine, others in zip(self, other, strict=True)))

    def part_of(self, other: "Cost") -> "Cost":
        """Return the ratios."""
        return Cost(*(mine / others for mine, others in zip(self, other, strict=True)))


_BARE = Way(otel=False)
_OURS, _OFFICIAL = Instrumentor.LOCO, Instrumentor.OFFICIAL
_GOALS = {True: "0.5, 0.5, -, 0.1", False: "0.25, 0.25, -, -"}
"""What we may add at most, as part of what the official instrumentor adds: with an SDK set up, and without."""
_WAYS = (
    _BARE,
    *(Way(otel, (instrumentor,)) for otel in (False, True) for instrumentor in (_OURS, _OFFICIAL)),
    Way(True, (Instrumentor.OPENLLMETRY,)),
    Way(True, (Instrumentor.OPENINFERENCE,)),
    Way(True, (_OURS, _OFFICIAL)),
    Way(True, (Instrumentor.CONTRACT,)),
)


def run() -> None:
    """Measure and print."""
    rounds: dict[Way, list[Any]] = {way: [] for way in _WAYS}
    for _ in range(_ROUNDS):
        for way, results in rounds.items():
            results.append(_measure_way(way))
    for where in ("alone", "in a span"):
        costs = {way: _compute_cost([result["times"][where] for result in results]) for way, results in rounds.items()}
        spans = {way: results[0]["spans"][where] for way, results in rounds.items()}
        _print_costs(where, costs, spans)


def _measure_way(way: Way) -> Any:
    environ = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
    environ["PYTHONPATH"] = os.pathsep.join(str(each.folder) for each in way.instrumentors)
    names = (each.value for each in way.instrumentors)
    program = [sys.executable, "-m", "benchmarks.called", str(int(way.otel)), *names]
    return json.loads(subprocess.run(program, check=True, capture_output=True, env=environ).stdout)


def _compute_cost(rounds: list[dict[str, float]]) -> Cost:
    best = {kind: min(times[kind] for times in rounds) for kind in rounds[0]}
    few, many = CHUNKS
    stream, long_stream = best[f"{few} chunks"], best[f"{many} chunks"]
    return Cost(best["create"], best["async"], stream, (long_stream - stream) / (many - few))


def _print_costs(where: str, costs: dict[Way, Cost], spans: dict[Way, int]) -> None:
    print(f"\nopenai chat.completions.create on a mock transport, {where}: us of CPU time over the bare SDK")
    print(f"  {'':<32}{'create':>9}{'async':>9}{f'{CHUNKS[0]} chunks':>11}{'a chunk':>9}{'spans':>7}")
    bare = costs[_BARE]
    _print_row("bare SDK", bare)
    for otel in (False, True):
        print(f"  {'with an' if otel else 'no'} OpenTelemetry SDK")
        added = {way: cost.over(bare) for way, cost in costs.items() if way.otel is otel and way is not _BARE}
        for way, cost in added.items():
            _print_row("  " + " and ".join(each.value for each in way.instrumentors), cost, spans[way])
        parts = added[Way(otel, (_OURS,))].part_of(added[Way(otel, (_OFFICIAL,))])
        print(f"    ours / official: {', '.join(f'{part:.2f}' for part in parts)} (goal: at most {_GOALS[otel]})")


def _print_row(name: str, cost: Cost, spans: int | str = "") -> None:
    print(f"  {name:<32}{cost.create:9.1f}{cost.async_create:9.1f}{cost.stream:11.1f}{cost.chunk:9.2f}{spans:>7}")
