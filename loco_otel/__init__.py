"""Load-aware scheduling of LLM calls inside a Python program, visible in OpenTelemetry.

Programs need nothing from here: `opentelemetry-instrument python app.py` schedules the calls of the supported SDKs.
This is the same scheduler as a library.
"""

from loco_otel._identity import as_agent
from loco_otel._version import __version__
from loco_otel.api import configure, dump, install, slot, snapshot, uninstall
from loco_otel.errors import (
    AcquireRejectedError,
    AcquireTimeoutError,
    BackpressureError,
    BudgetExceededError,
    ConfigurationError,
    LocoError,
    ShutdownError,
)
from loco_otel.settings import Settings

__all__ = [
    "AcquireRejectedError",
    "AcquireTimeoutError",
    "BackpressureError",
    "BudgetExceededError",
    "ConfigurationError",
    "LocoError",
    "Settings",
    "ShutdownError",
    "__version__",
    "as_agent",
    "configure",
    "dump",
    "install",
    "slot",
    "snapshot",
    "uninstall",
]
