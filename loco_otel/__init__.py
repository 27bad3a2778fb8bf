"""Load-aware scheduling of LLM calls inside a Python program, visible in OpenTelemetry.

Programs need nothing from here: `opentelemetry-instrument python app.py` schedules the calls of the supported SDKs.
This is the same scheduler as a library: `slot` for a `with` body, `wrap` and `scheduled` for functions, and
`AsyncLOCOScheduler` for programs that queue tasks themselves.
"""

from loco_otel._config.settings import Settings
from loco_otel._runtime.identity import as_agent
from loco_otel._version import __version__
from loco_otel.api import budgets, dump, install, on_budget, resume, slot, snapshot, spend, stop, uninstall
from loco_otel.compat.adaptive import AdaptiveAlphaTuner
from loco_otel.compat.agent import Agent
from loco_otel.compat.async_scheduler import AcquireHandle, AsyncLOCOScheduler
from loco_otel.compat.budget import BudgetManager
from loco_otel.compat.convenience import configure, get_scheduler, reset, scheduled, set_budget, wrap
from loco_otel.compat.metrics import SchedulerMetrics, jains_fairness
from loco_otel.compat.multi_resource import ResourcePool
from loco_otel.compat.pretty import auto_install as _auto_install
from loco_otel.compat.resource import SharedResource
from loco_otel.compat.scheduler import OPTIMIZE_FOR_ALPHA, LOCOScheduler, StepResult
from loco_otel.compat.task import Task
from loco_otel.errors import (
    AcquireRejectedError,
    AcquireTimeoutError,
    BackpressureError,
    BudgetExceededError,
    ConfigurationError,
    DeadlineExceededError,
    LedgerError,
    LocoError,
    RunLimitError,
    ShutdownError,
    StoppedError,
)

__all__ = [
    "OPTIMIZE_FOR_ALPHA",
    "AcquireHandle",
    "AcquireRejectedError",
    "AcquireTimeoutError",
    "AdaptiveAlphaTuner",
    "Agent",
    "AsyncLOCOScheduler",
    "BackpressureError",
    "BudgetExceededError",
    "BudgetManager",
    "ConfigurationError",
    "DeadlineExceededError",
    "LOCOScheduler",
    "LedgerError",
    "LocoError",
    "ResourcePool",
    "RunLimitError",
    "SchedulerMetrics",
    "Settings",
    "SharedResource",
    "ShutdownError",
    "StepResult",
    "StoppedError",
    "Task",
    "__version__",
    "as_agent",
    "budgets",
    "configure",
    "dump",
    "get_scheduler",
    "install",
    "jains_fairness",
    "on_budget",
    "reset",
    "resume",
    "scheduled",
    "set_budget",
    "slot",
    "snapshot",
    "spend",
    "stop",
    "uninstall",
    "wrap",
]

_auto_install()
