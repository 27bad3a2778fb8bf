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


class _Gate:
    """Lets a wrapper that cannot be taken off, because another is on top of it, at least step aside."""

    __slots__ = ("is_open", "wrapper")

    def __init__(self, wrapper: Wrapper) -> None:
        self.wrapper = wrapper
        self.is_open = True

    def __call__(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.is_open:
            return wrapped(*args, **kwargs)
        return self.wrapper(wrapped, instance, args, kwargs)


class _Place(NamedTuple):
    owner: type
    method: str
    proxy: Any
    """What wrapt has put there, by which it is taken off again."""

    @property
    def is_good(self) -> bool:
        return any(layer is self.proxy for layer in _layers(vars(self.owner).get(self.method)))


class Placement:
    """The wrappers around one SDK's methods."""

    def __init__(self) -> None:
        self._gates: dict[Target, _Gate] = {}
        self._places: list[_Place] = []

    @property
    def methods(self) -> tuple[str, ...]:
        """Name the methods that are wrapped now, without those that somebody put back."""
        return tuple(
            f"{place.owner.__module__}.{place.owner.__name__}.{place.method}" for place in self._places if place.is_good
        )

    def put(self, targets: Iterable[Target]) -> None:
        """Wrap all targets, all or none; what is in place stays as it is.

        Raises:
            AttributeError: this version of the SDK lacks one.

        """
        for target in targets:
            self._gates.setdefault(target, _Gate(target.wrapper))
        try:
            self.heal()
        except BaseException:
            # Calls whose pauses are not seen would keep their slots through them.
            self.remove()
            raise

    def heal(self) -> None:
        """Put back what somebody has taken off or gone around."""
        for target, gate in self._gates.items():
            for owner in _owners(target):
                if not any(_is_gate(layer, gate) for layer in _layers(vars(owner).get(target.method))):
                    proxy = wrapt.wrap_function_wrapper(owner, target.method, gate)
                    self._places = [place for place in self._places if place.is_good]
                    self._places.append(_Place(owner, target.method, proxy))

    def remove(self) -> None:
        """Take all wrappers off, and let those that stay step aside."""
        for gate in self._gates.values():
            gate.is_open = False
        places, self._places, self._gates = self._places, [], {}
        for owner, method, proxy in places:
            try:
                wrapt.unwrap_object(owner, method, proxy, missing_ok=True)
            except wrapt.WrapperNotOutermostError:
                _logger.debug("%s.%s keeps a wrapper that now does nothing", owner, method)


def _owners(target: Target) -> Iterator[type]:
    """Name the class that defines a method, and those below it that were given it anew."""
    first = target.resolve()
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


def _layers(function: Any) -> Iterator[Any]:
    """Go through the wrappers around a function, from the outermost."""
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)


def _is_gate(layer: Any, gate: _Gate) -> bool:
    # What OpenInference puts back is bound to nothing, but it is ours still.
    return getattr(layer, "_self_wrapper", None) is gate
