"""The name of a method or function to wrap, and its wrapper."""

import importlib
from typing import Any, NamedTuple

from loco_otel.patching.wrappers import Wrapper


class Target(NamedTuple):
    """One method or function of an SDK, by name: constructing it does not import the SDK."""

    module: str
    owner: str | None
    """Name of the class in its module; None for a function, which callers must find in the module by its name."""
    method: str
    wrapper: Wrapper
    after: str | None = None
    """Name of a package after whose import it is wrapped, if its module is imported then; None for that of its module.

    A package that imports functions from its modules has them under several names, and some modules refer to the
    functions of others. They are wrapped together, so that no wrapper is within another.
    """

    @property
    def hooked_module(self) -> str:
        """The name of the module after whose import it is wrapped."""
        return self.after or self.module

    def resolve_owner(self) -> Any:
        """Return the class, or the module of a function. Its module must be imported.

        Raises:
            AttributeError: this version of the SDK lacks the class.

        """
        module = importlib.import_module(self.module)
        return module if self.owner is None else getattr(module, self.owner)

    def __str__(self) -> str:
        return ".".join(filter(None, (self.module, self.owner, self.method)))
