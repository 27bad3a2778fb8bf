"""What to wrap."""

import importlib
from typing import Any, NamedTuple

from loco_otel.patching.wrappers import Wrapper


class Target(NamedTuple):
    """One method of an SDK. Names only, so that the SDK is never imported early."""

    module: str
    owner: str
    """The class, as its module names it."""
    method: str
    wrapper: Wrapper

    def resolve_owner(self) -> Any:
        """Return the class; its module is imported already.

        Raises:
            AttributeError: this version of the SDK has no such class.

        """
        return getattr(importlib.import_module(self.module), self.owner)

    def __str__(self) -> str:
        return f"{self.module}.{self.owner}.{self.method}"
