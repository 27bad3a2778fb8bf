"""The methods that an SDK's source defines: to parse a module is much cheaper than to import an SDK.

If the source does not show a method, the SDK has to be imported for the answer.
"""

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from loco_otel.patching import Target


def find_module_file(module: str) -> Path | None:
    """Return the source file of a module within a package; None if there is none. Imports nothing."""
    top, *parts = module.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, *parts)
        for file in (path.parent / f"{path.name}.py", path / "__init__.py"):
            if file.is_file():
                return file
    return None


def defines_target(target: Target) -> bool:
    """Return whether the source of a target's module defines the target, or a base class there does."""
    module = _parse_module(target.module)
    if target.owner is None:
        return target.method in _list_functions(module)
    classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    return any(target.method in _list_functions(classes[name]) for name in _iterate_bases(classes, target.owner))


@cache
def _parse_module(module: str) -> ast.Module:
    file = find_module_file(module)
    try:
        return ast.parse(file.read_bytes()) if file is not None else ast.Module([], [])
    except (OSError, SyntaxError, ValueError):
        return ast.Module([], [])


def _iterate_bases(classes: dict[str, ast.ClassDef], name: str) -> Iterator[str]:
    """Yield the class and its base classes of the same module."""
    pending = [name]
    while pending:
        found = classes.get(pending.pop())
        if found is not None:
            yield found.name
            for base in found.bases:
                # `BaseClient[httpx.Client]`
                plain = base.value if isinstance(base, ast.Subscript) else base
                if isinstance(plain, ast.Name):
                    pending.append(plain.id)


def _list_functions(scope: ast.Module | ast.ClassDef) -> set[str]:
    return {node.name for node in scope.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
