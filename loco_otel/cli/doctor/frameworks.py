"""The readers of agent frameworks: which are installed, and whether each can be loaded and reads without an error."""

import sys
from importlib import import_module
from importlib.metadata import EntryPoint

from loco_otel._config.settings import Settings
from loco_otel._runtime import agent_readers
from loco_otel.cli.doctor.hooks import collect_log, format_exception
from loco_otel.cli.doctor.report import AgentFramework
from loco_otel.cli.doctor.source import find_module_file
from loco_otel.patching.agent_identity import get_framework_name, list_framework_modules
from loco_otel.patching.identity_hooks import FrameworkHooks


def examine_frameworks(settings: Settings | None, *, imports: bool) -> tuple[AgentFramework, ...]:
    """Examine the reader of each installed framework.

    Args:
        settings: name the readers that are disabled; None if they cannot be used.
        imports: whether to import a framework to load its reader. One that is imported already is examined anyway.

    """
    disabled = settings.disabled_instrumentations if settings else frozenset()
    return tuple(
        _examine_framework(entry, disabled, imports=imports)
        for entry in sorted(list_framework_modules(), key=get_framework_name)
        if entry.name in sys.modules or find_module_file(entry.name) is not None
    )


def _examine_framework(entry: EntryPoint, disabled: frozenset[str], *, imports: bool) -> AgentFramework:
    name = get_framework_name(entry)
    if f"loco_{name}" in disabled:
        return AgentFramework(name, entry.name, tested=False, fault="disabled by OTEL_PYTHON_DISABLED_INSTRUMENTATIONS")
    if not imports and entry.name not in sys.modules:
        return AgentFramework(name, entry.name, tested=False)
    return AgentFramework(name, entry.name, tested=True, fault=_find_fault(entry, name))


def _find_fault(entry: EntryPoint, name: str) -> str:
    """Return the first fault of a reader in this process, else that of a reading outside the framework."""
    if name in agent_readers.faults:
        return agent_readers.faults[name]
    with collect_log():
        try:
            import_module(entry.name)
            reader = entry.load()()
            for target in reader.list_targets():
                getattr(target.resolve_owner(), target.method)
            if not isinstance(reader, FrameworkHooks):
                agent_readers.read_names(reader)
        except Exception as error:
            return format_exception(error)
    return ""
