"""The runtime of this process: the current one, its settings, its replacement and its end."""

import atexit

from loco_otel._config.settings import Settings
from loco_otel._fork import ForkSafeLock
from loco_otel._runtime import faults
from loco_otel._runtime.runtime import Runtime

_current: Runtime | None = None
_creation_lock = ForkSafeLock()


def get_runtime() -> Runtime:
    """Return the runtime of this process. The first call creates it from the settings.

    Raises:
        ConfigurationError: a setting is invalid.

    """
    return _current or _create_runtime(None)


def get_existing_runtime() -> Runtime | None:
    """Return the runtime, or None before the first call of `get_runtime`."""
    return _current


def record_fault(what: str) -> None:
    """Log the exception being handled, and count a call that is sent unscheduled, if there is a runtime."""
    if _current is None:
        faults.log_fault(what, effect=faults.UNSCHEDULED)
    else:
        _current.record_fault(what)


def change_settings(**changes: object) -> Settings:
    """Change settings of the running program; see `loco_otel.configure`."""
    runtime = get_runtime()
    with _creation_lock:
        settings = runtime.settings.changed(**changes)
        runtime.apply_settings(settings)
    # Without the lock, as a callback for budgets may change the settings too.
    runtime.budgets.recheck_waiters()
    return settings


def replace_runtime(settings: Settings | None) -> Runtime | None:
    """Close the runtime and create another from these settings; None creates none. Patched SDKs use the new one."""
    global _current
    with _creation_lock:
        before, _current = _current, None
    if before is not None:
        before.close()
    if settings is None:
        return None
    runtime = _create_runtime(settings)
    if before is not None:
        runtime.sdks = before.sdks
    return runtime


def _create_runtime(settings: Settings | None) -> Runtime:
    global _current  # noqa: PLW0603 - the one mutable global
    with _creation_lock:
        if _current is None:
            _current = Runtime(settings or Settings.load())
        return _current


def _shut_down_at_exit() -> None:
    # The interpreter has joined all other threads by now: only daemon threads can still wait.
    if _current is not None:
        _current.abandon_open_bodies()
        _current.engine.close()
        _current.engine.leave()
        _current.budgets.ledger_client.run_maintenance()
        _current.budgets.ledger_client.ledger.close()


atexit.register(_shut_down_at_exit)
