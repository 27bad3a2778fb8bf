"""Our own hooks: whether each SDK can be patched, read from its source, or determined by patching it."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import EntryPoint

from loco_otel._config.settings import Settings
from loco_otel.cli.doctor.report import Hook, Sdk
from loco_otel.cli.doctor.source import defines_target, find_module_file
from loco_otel.patching import LocoInstrumentor, Target
from loco_otel.patching.versions import find_installed_version


@contextmanager
def patch_for_inspection(
    entry: EntryPoint, settings: Settings | None, *, imports: bool
) -> Iterator[tuple[Sdk, LocoInstrumentor]]:
    """Examine one SDK. If it is patched for that, the patches stay for the length of the body.

    Args:
        entry: the entry point of its instrumentor.
        settings: those of the environment; None if they cannot be used.
        imports: whether to import and patch the SDK, even if its source shows that it can be patched.

    """
    instrumentor: LocoInstrumentor = entry.load()()
    number = find_installed_version(instrumentor.sdk)
    sdk = Sdk(instrumentor.sdk, number, instrumentor.requires, not_covered=instrumentor.not_covered)
    if number is not None and instrumentor.needs_hosts and settings is not None and not settings.http_hosts:
        sdk = sdk._replace(off="LOCO_HTTP_HOSTS names no host")
    elif number is not None:
        supported = instrumentor.supports_version(number)
        fault = "" if supported else f"version not supported, it takes {instrumentor.requires}"
        sdk = sdk._replace(supported=supported, fault=_find_disabling_setting(entry, settings) or fault)
    if not sdk.is_patched:
        yield sdk, instrumentor
        return
    targets = _list_present_targets(instrumentor)
    main_module = instrumentor.list_targets()[0].module
    is_readable = any(target.module == main_module for target in targets) and all(map(defines_target, targets))
    if not imports and main_module not in sys.modules and is_readable:
        yield sdk._replace(hooks=tuple(Hook(str(target), True) for target in targets)), instrumentor
        return
    before = instrumentor.is_instrumented_by_opentelemetry
    fault = _patch_sdk(instrumentor)
    try:
        yield refresh_hooks(sdk._replace(fault=fault, imported=True), instrumentor), instrumentor
    finally:
        if not before and instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()


def refresh_hooks(sdk: Sdk, instrumentor: LocoInstrumentor) -> Sdk:
    """Return an SDK with its hooks as they are now."""
    patched = instrumentor.list_patched()
    # A module that is not imported yet is patched by its import.
    hooks = tuple(
        Hook(str(target), str(target) in patched if target.module in sys.modules else defines_target(target))
        for target in _list_present_targets(instrumentor)
    )
    missing = [hook.method for hook in hooks if not hook.in_place]
    fault = sdk.fault or (f"not patched: {', '.join(missing)}" if missing else "")
    return sdk._replace(hooks=hooks, fault=fault)


def _list_present_targets(instrumentor: LocoInstrumentor) -> list[Target]:
    """Return the targets in modules that the installed version has."""
    targets = instrumentor.list_targets()
    return [target for target in targets if target.module in sys.modules or find_module_file(target.module)]


def _find_disabling_setting(entry: EntryPoint, settings: Settings | None) -> str:
    """Say by which setting one SDK is left out; nothing where it is not."""
    if settings is None:
        return "a setting cannot be used, see below"
    if not settings.enabled:
        return "LOCO_ENABLED is false"
    if not settings.disabled_instrumentations.isdisjoint({"*", entry.name}):
        return f"{entry.name} is disabled by OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
    return ""


def _patch_sdk(instrumentor: LocoInstrumentor) -> str:
    """Patch an SDK, and return what went wrong."""
    with collect_log() as records:
        if not instrumentor.is_instrumented_by_opentelemetry:
            # As the launcher does, which checks only our distribution's version.
            instrumentor.instrument(skip_dep_check=True)
        try:
            import_module(instrumentor.list_targets()[0].module)
        except Exception as error:
            return f"it cannot be imported: {format_exception(error)}"
    errors = [record.exc_info[1] for record in records if record.levelno >= logging.ERROR and record.exc_info]
    return f"patching failed: {format_exception(errors[0])}" if errors and errors[0] is not None else ""


class _LogCollector(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def collect_log() -> Iterator[list[logging.LogRecord]]:
    """Collect what loco-otel logs, instead of logging it."""
    handler = _LogCollector()
    logger = logging.getLogger("loco_otel")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield handler.records
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def format_exception(error: BaseException) -> str:
    """Return an exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
