"""What an instrumented call costs over the bare SDK, on a transport that answers at once, and what others' cost.

Each way runs in processes of its own, in turn.
"""

import json
import subprocess
import sys
from math import inf
from statistics import median
from typing import Any, NamedTuple

from benchmarks.call_workload import CHUNKS, SURROUNDINGS, Telemetry, Way
from benchmarks.company import Instrumentor

_ROUNDS = 3


class Cost(NamedTuple):
    """Microseconds of a call, or those that a way adds."""

    create: float
    async_create: float
    stream: float
    chunk: float
    """Each further chunk of a stream."""
    async_chunk: float
    collection: float
    """One collection of metrics after 64 calls of `create`."""

    def over(self, other: "Cost") -> "Cost":
        """Return the difference."""
        return Cost(*(mine - others for mine, others in zip(self, other, strict=True)))

    def part_of(self, other: "Cost") -> "Cost":
        """Return the ratios."""
        return Cost(*(mine / (others or inf) for mine, others in zip(self, other, strict=True)))


_BARE = Way()
_OURS, _OFFICIAL = (Instrumentor.LOCO,), (Instrumentor.OFFICIAL,)
_GOALS = {
    Telemetry.NONE: "0.25, with a capacity 0.4; a chunk 0.08",
    Telemetry.SDK: "0.5; a chunk 0.08",
    Telemetry.ENCODED: "0.75; a chunk 0.08",
}
"""What we may add at most, as part of what the official instrumentor adds."""
_WAYS = (
    _BARE,
    *(Way(Telemetry.NONE, _OURS, limited) for limited in (False, True)),
    Way(Telemetry.NONE, _OFFICIAL),
    *(Way(Telemetry.SDK, _OURS, limited) for limited in (False, True)),
    Way(Telemetry.SDK, _OFFICIAL),
    Way(Telemetry.SDK, (Instrumentor.OPENLLMETRY,)),
    Way(Telemetry.SDK, (Instrumentor.OPENINFERENCE,)),
    Way(Telemetry.SDK, (*_OURS, *_OFFICIAL)),
    Way(Telemetry.SDK, (Instrumentor.CONTRACT,)),
    Way(Telemetry.ENCODED, _OURS),
    Way(Telemetry.ENCODED, _OFFICIAL),
)


def run() -> None:
    """Measure and print."""
    rounds: dict[Way, list[Any]] = {way: [] for way in _WAYS}
    for _ in range(_ROUNDS):
        for way, results in rounds.items():
            results.append(_measure_way(way))
    for where in SURROUNDINGS:
        costs = {way: _compute_cost([result["times"][where] for result in results]) for way, results in rounds.items()}
        spans = {way: results[0]["spans"][where] for way, results in rounds.items()}
        _print_costs(where, costs, spans)


def _measure_way(way: Way) -> Any:
    program = [sys.executable, "-m", "benchmarks.called", *way.arguments]
    return json.loads(subprocess.run(program, check=True, capture_output=True, env=way.environ).stdout)


def _compute_cost(rounds: list[dict[str, float]]) -> Cost:
    """Return the medians of several processes."""
    times = {kind: median(each[kind] for each in rounds) for kind in rounds[0]}
    few, many = CHUNKS
    chunk, async_chunk = (
        (times[f"many {chunks}"] - times[f"few {chunks}"]) / (many - few) for chunks in ("chunks", "async chunks")
    )
    return Cost(times["create"], times["async"], times["few chunks"], chunk, async_chunk, times["collection"])


def _print_costs(where: str, costs: dict[Way, Cost], spans: dict[Way, int]) -> None:
    print(f"\nopenai chat.completions.create on a mock transport, {where}: us of CPU time over the bare SDK")
    columns = ("create", "async", f"{CHUNKS[0]} chunks", "a chunk", "async chunk", "collection", "spans")
    print(f"  {'':<32}{''.join(f'{column:>12}' for column in columns)}")
    bare = costs[_BARE]
    _print_row("bare SDK", bare)
    for telemetry in Telemetry:
        print(f"  OpenTelemetry: {telemetry.value}")
        added = {way: cost.over(bare) for way, cost in costs.items() if way.telemetry is telemetry and way != _BARE}
        for way, cost in added.items():
            _print_row(f"  {way.name}", cost, spans[way])
        official = added[Way(telemetry, _OFFICIAL)]
        for way in (way for way in added if way.instrumentors == _OURS):
            parts = ", ".join(f"{part:.2f}" for part in added[way].part_of(official)[:-1])
            print(f"    {way.name} / official: {parts} (goal: at most {_GOALS[telemetry]})")


def _print_row(name: str, cost: Cost, spans: int | str = "") -> None:
    times = "".join(f"{microseconds:12.1f}" for microseconds in cost)
    print(f"  {name:<32}{times}{spans:>12}")
