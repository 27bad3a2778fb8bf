"""The installed version of an SDK, and whether it can be patched."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from packaging.requirements import Requirement
from packaging.version import InvalidVersion

UNKNOWN_VERSION = "unknown"
"""The version of an SDK without metadata, as in a frozen program."""


def find_installed_version(sdk: str) -> str | None:
    """Return an SDK's version without importing it; None if it is not installed."""
    try:
        return version(sdk)
    except PackageNotFoundError:
        return UNKNOWN_VERSION if _is_importable(sdk) else None


def accepts_version(requires: str, number: str) -> bool:
    """Return whether a requirement accepts a version, pre-releases included. It accepts an unknown version."""
    try:
        return number == UNKNOWN_VERSION or Requirement(requires).specifier.contains(number, prereleases=True)
    except InvalidVersion:
        return False


def is_installed(requirement: str) -> bool:
    """Return whether an SDK is installed in a version that a requirement accepts, or in an unknown one."""
    number = find_installed_version(Requirement(requirement).name)
    return number is not None and accepts_version(requirement, number)


def _is_importable(package: str) -> bool:
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return False
    # A folder without `__init__.py` is a namespace package, which has no file.
    return spec is not None and spec.has_location
