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
    if target.owner is None:
        return _defines_function(target.module, target.method)
    module = _parse_module(target.module)
    classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    return any(target.method in _list_functions(classes[name]) for name in _iterate_bases(classes, target.owner))


def _defines_function(name: str, function: str) -> bool:
    """Return whether a module defines a function, or imports it from a module of its own package."""
    module = _parse_module(name)
    return function in _list_functions(module) or any(
        _defines_function(f"{name}.{node.module}", function)
        for node in module.body
        if isinstance(node, ast.ImportFrom)
        and node.level == 1
        and not {function, "*"}.isdisjoint(alias.name for alias in node.names)
        and _is_package(name)
    )


def _is_package(module: str) -> bool:
    file = find_module_file(module)
    return file is not None and file.name == "__init__.py"


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
