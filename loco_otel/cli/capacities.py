"""The slots of a resource over several processes: a shared engine's are the same ones for all of them."""

from collections.abc import Iterable

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry import catalogue
from loco_otel.cli.metrics_page import MetricsPage
from loco_otel.snapshots import EngineMode


def is_shared(page: MetricsPage) -> bool:
    """Return whether a shared engine grants the slots of a process."""
    return page.sum_by(catalogue.ENGINE_MODE, key.ENGINE_MODE).get((EngineMode.REMOTE,)) == 1


def add_capacities(capacities: Iterable[tuple[bool, float]]) -> float:
    """Return the slots of one resource.

    Args:
        capacities: what each process reports, and whether a shared engine grants its slots.

    Example:
        >>> add_capacities([(True, 4.0), (True, 4.0), (False, 1.0)])
        5.0

    """
    own, shared = 0.0, 0.0
    for is_of_engine, capacity in capacities:
        if is_of_engine:
            shared = max(shared, capacity)
        else:
            own += capacity
    return own + shared
