"""The name of a method to wrap, and its wrapper."""

import importlib
from typing import Any, NamedTuple

from loco_otel.patching.wrappers import Wrapper


class Target(NamedTuple):
    """One method of an SDK, by name: constructing it does not import the SDK."""

    module: str
    owner: str
    """Name of the class in its module."""
    method: str
    wrapper: Wrapper

    def resolve_owner(self) -> Any:
        """Return the class. Its module must be imported.

        Raises:
            AttributeError: this version of the SDK lacks the class.

        """
        return getattr(importlib.import_module(self.module), self.owner)

    def __str__(self) -> str:
        return f"{self.module}.{self.owner}.{self.method}"
