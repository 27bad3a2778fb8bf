"""Load-aware scheduling of LLM calls inside a Python program, visible in OpenTelemetry.

Programs need nothing from here: `opentelemetry-instrument python app.py` schedules the calls of the supported SDKs.
This is the same scheduler as a library: `slot` for a `with` body, `wrap` and `scheduled` for functions, and
`AsyncLOCOScheduler` for programs that queue tasks themselves.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from loco_otel._config.settings import Settings, is_pretty_log_enabled
from loco_otel._runtime.identity import as_agent
from loco_otel._runtime.runtime import add_start_hook
from loco_otel._version import __version__
from loco_otel.api import budgets, dump, install, on_budget, resume, slot, snapshot, spend, stop, uninstall
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

if TYPE_CHECKING:
    from loco_otel.compat.adaptive import AdaptiveAlphaTuner
    from loco_otel.compat.agent import Agent
    from loco_otel.compat.async_scheduler import AcquireHandle, AsyncLOCOScheduler
    from loco_otel.compat.budget import BudgetManager
    from loco_otel.compat.convenience import configure, get_scheduler, reset, scheduled, set_budget, wrap
    from loco_otel.compat.metrics import SchedulerMetrics, jains_fairness
    from loco_otel.compat.multi_resource import ResourcePool
    from loco_otel.compat.resource import SharedResource
    from loco_otel.compat.scheduler import OPTIMIZE_FOR_ALPHA, LOCOScheduler, StepResult
    from loco_otel.compat.task import Task

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

_LOCO_AGENT_MODULES = {
    **dict.fromkeys(("AdaptiveAlphaTuner",), "adaptive"),
    **dict.fromkeys(("Agent",), "agent"),
    **dict.fromkeys(("AcquireHandle", "AsyncLOCOScheduler"), "async_scheduler"),
    **dict.fromkeys(("BudgetManager",), "budget"),
    **dict.fromkeys(("configure", "get_scheduler", "reset", "scheduled", "set_budget", "wrap"), "convenience"),
    **dict.fromkeys(("SchedulerMetrics", "jains_fairness"), "metrics"),
    **dict.fromkeys(("ResourcePool",), "multi_resource"),
    **dict.fromkeys(("SharedResource",), "resource"),
    **dict.fromkeys(("OPTIMIZE_FOR_ALPHA", "LOCOScheduler", "StepResult"), "scheduler"),
    **dict.fromkeys(("Task",), "task"),
}
"""By name: the module of `loco_otel.compat` that has it."""


def _install_pretty_log(settings: Settings) -> None:
    """Install the pretty log if a settings file selects it: it is read when a runtime is created."""
    if settings.log == "pretty":
        import_module("loco_otel.compat.pretty").install()


add_start_hook(_install_pretty_log)
if is_pretty_log_enabled():
    import_module("loco_otel.compat.pretty").install()

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a part of loco-agent's API when it is used: most programs use none."""
        module = _LOCO_AGENT_MODULES.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"loco_otel.compat.{module}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
