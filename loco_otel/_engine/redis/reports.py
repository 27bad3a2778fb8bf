"""What the engine reports of a resource, as the core takes it, and what of that a sync returns to the engine."""

from collections.abc import Iterable, Sequence
from math import inf

from loco_otel._core.remote_grants import PoolReport
from loco_otel._core.slot_pool import Gate
from loco_otel._engine.redis.batches import LineState
from loco_otel.events import GateCause


def make_report(line: LineState, processes: int, server_start: float) -> PoolReport:
    """Return the report of a resource; `server_start` is the time here at which the server's clock was 0."""
    gate = None
    # A pause delays all tickets, whether slots are free or not, and is reported apart.
    if line.gate is not None and line.gate.cause != GateCause.BACKOFF.value:
        gate = Gate(line.name, GateCause(line.gate.cause), server_start + line.gate.due / 1000)
    report = PoolReport(line.capacity, line.tick, gate, processes, float(line.alpha))
    if line.auto is not None:
        ceiling, refused_level, is_learnt = line.auto
        report = report._replace(ceiling=ceiling, refused_level=refused_level, is_learnt=is_learnt)
    if line.pause is not None:
        until = server_start + line.pause.due / 1000
        report = report._replace(paused_until=until, pause_header=line.pause.header or None)
    return report


def list_learnt(lines: Iterable[LineState]) -> Sequence[tuple[str, float, str]]:
    """Return name, limit and refused level of each adaptive limit that was learnt."""
    return [
        (line.name, line.capacity, repr(line.auto.refused_level))
        for line in lines
        if line.auto is not None and line.auto.is_learnt and line.capacity < inf
    ]
