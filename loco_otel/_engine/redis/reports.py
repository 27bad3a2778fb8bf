"""What the engine reports of a line, as the core takes it, and what of that a sync returns to the engine."""

from collections.abc import Iterable, Sequence
from math import inf

from loco_otel._core.remote_grants import PoolReport, QueueReport
from loco_otel._core.slot_pool import Gate
from loco_otel._engine.redis.batches import LineState
from loco_otel.events import GateCause


def make_queue_report(line: LineState, server_start: float) -> QueueReport:
    """Return the report of the waiters; `server_start` is the time here at which the server's clock was 0."""
    gate = None
    # A pause delays all tickets, whether slots are free or not, and is reported apart.
    if line.gate is not None and line.gate.cause != GateCause.BACKOFF.value:
        opens_at = inf if line.gate.due < 0 else server_start + line.gate.due / 1000
        gate = Gate(line.gate.resource, GateCause(line.gate.cause), opens_at)
    return QueueReport(line.tick, gate, float(line.alpha))


def make_pool_report(line: LineState, processes: int, server_start: float) -> PoolReport:
    """Return the report of a resource; `server_start` is the time here at which the server's clock was 0."""
    report = PoolReport(line.capacity, processes)
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
