"""Applies the wrappers of an SDK's methods, reapplies those that were undone, and removes them.

Other instrumentors wrap the same methods, and restore what they found: OpenInference copies the base class's method to
the subclass, over or instead of ours. So a method is wrapped in the class that defines it and in each subclass that has
a copy of it, and `repatching` reapplies the wrappers.
"""

import inspect
import logging
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import wrapt

from loco_otel.patching.target import Target
from loco_otel.patching.unwrapping import iterate_layers, remove_wrapper
from loco_otel.patching.wrappers import Wrapper

_logger = logging.getLogger("loco_otel")


class _SwitchableWrapper:
    """Calls a wrapper while it is enabled: one that another wrapper encloses cannot be removed, but disabled."""

    __slots__ = ("is_enabled", "wrapper")

    def __init__(self, wrapper: Wrapper) -> None:
        self.wrapper = wrapper
        self.is_enabled = True

    def __call__(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.is_enabled:
            return wrapped(*args, **kwargs)
        return self.wrapper(wrapped, instance, args, kwargs)


class _AppliedPatch(NamedTuple):
    target: Target
    owner: Any
    """A class, or the module of a function."""
    proxy: Any
    """The wrapper as wrapt installed it, which identifies it for the removal."""

    @property
    def is_applied(self) -> bool:
        return any(layer is self.proxy for layer in iterate_layers(vars(self.owner).get(self.target.method)))


class PatchSet:
    """The wrappers around one SDK's methods."""

    def __init__(self) -> None:
        self._wrappers: dict[Target, _SwitchableWrapper] = {}
        self._patches: list[_AppliedPatch] = []

    @property
    def patched_methods(self) -> tuple[str, ...]:
        """The methods that are wrapped now, without those that were restored by others."""
        return tuple(
            str(patch.target._replace(module=patch.owner.__module__, owner=patch.owner.__name__))
            if isinstance(patch.owner, type)
            else str(patch.target)
            for patch in self._patches
            if patch.is_applied
        )

    def apply_patches(self, targets: Iterable[Target]) -> None:
        """Wrap all targets, or none of them. Idempotent.

        Raises:
            AttributeError: this version of the SDK lacks one.

        """
        for target in targets:
            self._wrappers.setdefault(target, _SwitchableWrapper(target.wrapper))
        try:
            self.reapply_patches()
        except BaseException:
            # If only some were wrapped, calls could keep their slots through a retry's pause.
            self.remove_patches()
            raise

    def reapply_patches(self) -> None:
        """Wrap again what others have restored or replaced."""
        for target, wrapper in self._wrappers.items():
            for owner in _find_owners(target):
                if not any(_is_our_layer(layer, wrapper) for layer in iterate_layers(vars(owner).get(target.method))):
                    proxy = wrapt.wrap_function_wrapper(owner, target.method, wrapper)
                    self._patches = [patch for patch in self._patches if patch.is_applied]
                    self._patches.append(_AppliedPatch(target, owner, proxy))

    def remove_patches(self) -> None:
        """Remove all wrappers, and disable those that cannot be removed."""
        for wrapper in self._wrappers.values():
            wrapper.is_enabled = False
        patches, self._patches, self._wrappers = self._patches, [], {}
        for target, owner, proxy in patches:
            if not remove_wrapper(owner, target.method, proxy):
                _logger.debug("%s.%s keeps a wrapper that has no effect now", owner, target.method)


def _find_owners(target: Target) -> Iterator[Any]:
    """Yield the class that defines a method, and its subclasses that have a copy of it; of a function, its module."""
    first = target.resolve_owner()
    original = inspect.unwrap(getattr(first, target.method))
    yield first
    below: list[type] = first.__subclasses__() if isinstance(first, type) else []
    while below:
        owner = below.pop()
        below += owner.__subclasses__()
        found = vars(owner).get(target.method)
        # A subclass's own method either calls the inherited one or replaces it on purpose.
        if found is not None and inspect.unwrap(found) is original:
            yield owner


def _is_our_layer(layer: Any, wrapper: _SwitchableWrapper) -> bool:
    # OpenInference restores an unbound proxy of ours: another object with the same wrapper.
    return getattr(layer, "_self_wrapper", None) is wrapper
