"""An engine with fixed resources, for loco-agent's API."""

from collections.abc import Mapping

from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.scheduler import Scheduler
from loco_otel._engine.in_process import InProcessEngine


def create_engine(capacities: Mapping[str, int | None], *, max_waiters: int | None = None) -> InProcessEngine:
    """Return an engine with these resources, each with policy `fifo` until `ResourceView.set_policy` changes it."""
    return InProcessEngine(Scheduler(capacities, FifoPolicy, max_waiters=max_waiters))
