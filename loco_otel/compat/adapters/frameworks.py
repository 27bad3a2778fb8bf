"""Optional frameworks: an adapter can be imported without its framework, and names it when it is used."""

from importlib import import_module
from typing import Any


def import_base(module: str, name: str) -> Any:
    """Return a class of a framework to derive from; `object` if the framework is not installed."""
    try:
        return getattr(import_module(module), name)
    except ImportError:
        return object


def require_framework(base: Any, package: str, user: str) -> None:
    """Check what `import_base` returned.

    Raises:
        ImportError: the framework is not installed.

    """
    if base is object:
        raise ImportError(f"{user} needs the package {package}: pip install {package}", name=package)


def import_framework(module: str, package: str, user: str) -> Any:
    """Return a module of a framework.

    Raises:
        ImportError: the framework is not installed.

    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"{user} needs the package {package}: pip install {package}", name=package) from error
