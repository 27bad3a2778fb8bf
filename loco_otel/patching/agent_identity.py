"""Loads the readers of agent frameworks, each after its framework's import, while any SDK is patched.

A reader is an entry point in the group `loco_otel_agent_identity`, or hooks that push are. The entry point is named
after the module whose import loads it, so a program that does not use a framework does not pay for its reader.
"""

import sys
from functools import partial
from importlib.metadata import EntryPoint
from typing import Any, Protocol

import wrapt

from loco_otel._runtime import entry_points, process
from loco_otel._runtime.agent_readers import (
    IdentityReader,
    PartialIdentity,
    add_reader,
    clear_readers,
    pop_identity,
    push_identity,
    record_reader_fault,
)
from loco_otel.patching import repatching
from loco_otel.patching.identity_hooks import FrameworkHooks
from loco_otel.patching.patch_set import PatchSet
from loco_otel.patching.target import Target

__all__ = [
    "FrameworkReader",
    "PartialIdentity",
    "disable_readers",
    "enable_readers",
    "get_framework_name",
    "list_framework_modules",
    "pop_identity",
    "push_identity",
    "record_reader_fault",
]

_users: set[object] = set()
_hooked_modules: set[str] = set()
_patch_sets: dict[str, list[PatchSet]] = {}
"""The hooks that push, by the module of their framework."""


class FrameworkReader(IdentityReader, Protocol):
    """Reads the running agent from one framework, or pushes it from hooks there."""

    def list_targets(self) -> tuple[Target, ...]:
        """Return the framework's methods to wrap; empty where reading suffices."""


def list_framework_modules() -> list[EntryPoint]:
    """Return the readers' entry points; each is named after the module that loads it."""
    return entry_points.list_entry_points(entry_points.AGENT_READERS)


def get_framework_name(entry: EntryPoint) -> str:
    """Return the name of a reader's framework: the last part of the module that defines the reader."""
    return entry.value.partition(":")[0].rpartition(".")[2]


def enable_readers(user: object) -> None:
    """Load the reader of each framework that is imported, now or later, until all users have disabled them."""
    is_first = not _users
    _users.add(user)
    if not is_first:
        return
    for entry in list_framework_modules():
        if entry.name not in _hooked_modules:
            _hooked_modules.add(entry.name)
            wrapt.register_post_import_hook(partial(_load_reader, entry), entry.name)
        elif entry.name in sys.modules:
            _load_reader(entry)


def disable_readers(user: object) -> None:
    """Undo `enable_readers`; no-op without it."""
    _users.discard(user)
    if not _users:
        clear_readers()
        for module in list(_patch_sets):
            for patch_set in _patch_sets.pop(module):
                repatching.unregister_reapply(patch_set.reapply_patches)
                patch_set.remove_patches()


def _load_reader(entry: EntryPoint, _: Any = None) -> None:
    """Load one reader. It runs within the framework's import, so it never raises."""
    if not _users:
        return
    name = get_framework_name(entry)
    try:
        if f"loco_{name}" in process.get_runtime().settings.disabled_instrumentations:
            return
        reader: FrameworkReader | FrameworkHooks = entry.load()()
        targets = reader.list_targets()
        if isinstance(reader, FrameworkHooks):
            for target in targets:
                _try_apply(entry.name, name, (target,))
        elif not targets or _try_apply(entry.name, name, targets):
            add_reader(reader)
    except Exception as error:
        record_reader_fault(name, error)


def _try_apply(module: str, framework: str, targets: tuple[Target, ...]) -> bool:
    """Wrap some methods of a framework, or none of them and record why."""
    patch_set = PatchSet()
    try:
        patch_set.apply_patches(targets)
    except Exception as error:
        record_reader_fault(framework, error)
        return False
    _patch_sets.setdefault(module, []).append(patch_set)
    repatching.register_reapply(patch_set.reapply_patches)
    return True
