"""Where an SDK's methods are wrapped: in place, back in place when somebody has undone it, and off again.

Others wrap the same methods, and put back what they found: OpenInference keeps the method of the base class as it was
on the subclass, over or instead of ours. So a method is wrapped wherever a class has it from the class that defines it,
and is looked after, see `watch.py`.
"""

import inspect
import logging
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import wrapt

from loco_otel.patching.target import Target
from loco_otel.patching.wrappers import Wrapper

_logger = logging.getLogger("loco_otel")


class _SwitchableWrapper:
    """Lets a wrapper that cannot be taken off, because another is on top of it, at least step aside."""

    __slots__ = ("is_enabled", "wrapper")

    def __init__(self, wrapper: Wrapper) -> None:
        self.wrapper = wrapper
        self.is_enabled = True

    def __call__(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.is_enabled:
            return wrapped(*args, **kwargs)
        return self.wrapper(wrapped, instance, args, kwargs)


class _AppliedPatch(NamedTuple):
    owner: type
    method: str
    proxy: Any
    """What wrapt has put there, by which it is taken off again."""

    @property
    def is_applied(self) -> bool:
        return any(layer is self.proxy for layer in _iterate_layers(vars(self.owner).get(self.method)))


class PatchSet:
    """The wrappers around one SDK's methods."""

    def __init__(self) -> None:
        self._wrappers: dict[Target, _SwitchableWrapper] = {}
        self._patches: list[_AppliedPatch] = []

    @property
    def patched_methods(self) -> tuple[str, ...]:
        """Name the methods that are wrapped now, without those that somebody put back."""
        return tuple(
            f"{place.owner.__module__}.{place.owner.__name__}.{place.method}"
            for place in self._patches
            if place.is_applied
        )

    def apply_patches(self, targets: Iterable[Target]) -> None:
        """Wrap all targets, all or none; what is in place stays as it is.

        Raises:
            AttributeError: this version of the SDK lacks one.

        """
        for target in targets:
            self._wrappers.setdefault(target, _SwitchableWrapper(target.wrapper))
        try:
            self.reapply_patches()
        except BaseException:
            # Calls whose pauses are not seen would keep their slots through them.
            self.remove_patches()
            raise

    def reapply_patches(self) -> None:
        """Put back what somebody has taken off or gone around."""
        for target, gate in self._wrappers.items():
            for owner in _find_owners(target):
                if not any(_is_our_layer(layer, gate) for layer in _iterate_layers(vars(owner).get(target.method))):
                    proxy = wrapt.wrap_function_wrapper(owner, target.method, gate)
                    self._patches = [place for place in self._patches if place.is_applied]
                    self._patches.append(_AppliedPatch(owner, target.method, proxy))

    def remove_patches(self) -> None:
        """Take all wrappers off, and let those that stay step aside."""
        for gate in self._wrappers.values():
            gate.is_enabled = False
        places, self._patches, self._wrappers = self._patches, [], {}
        for owner, method, proxy in places:
            try:
                wrapt.unwrap_object(owner, method, proxy, missing_ok=True)
            except wrapt.WrapperNotOutermostError:
                _logger.debug("%s.%s keeps a wrapper that now does nothing", owner, method)


def _find_owners(target: Target) -> Iterator[type]:
    """Name the class that defines a method, and those below it that were given it anew."""
    first = target.resolve_owner()
    original = inspect.unwrap(getattr(first, target.method))
    yield first
    below = first.__subclasses__()
    while below:
        owner = below.pop()
        below += owner.__subclasses__()
        found = vars(owner).get(target.method)
        # One that a subclass wrote itself calls the method above, or means not to.
        if found is not None and inspect.unwrap(found) is original:
            yield owner


def _iterate_layers(function: Any) -> Iterator[Any]:
    """Go through the wrappers around a function, from the outermost."""
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)


def _is_our_layer(layer: Any, gate: _SwitchableWrapper) -> bool:
    # What OpenInference puts back is bound to nothing, but it is ours still.
    return getattr(layer, "_self_wrapper", None) is gate
