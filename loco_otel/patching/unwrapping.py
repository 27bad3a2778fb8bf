"""The removal of a wrapt wrapper from a class or module, under wrapt 1, which has no function for it, and wrapt 2."""

from collections.abc import Iterator
from typing import Any

import wrapt

_PROXY_TYPE: type[Any] = getattr(wrapt, "BaseObjectProxy", wrapt.ObjectProxy)
"""The base of all of wrapt's wrappers: the first name is wrapt 2's."""


def remove_wrapper(owner: Any, name: str, proxy: Any) -> bool:
    """Remove a wrapper from a method or function; return False if it remains, under a function that wrapt did not make.

    Idempotent: returns True if the wrapper is not there.

    Args:
        owner: the class or module whose attribute was wrapped.
        name: of the attribute.
        proxy: what `wrapt.wrap_function_wrapper` returned.

    """
    outer = None
    for layer in iterate_layers(vars(owner).get(name)):
        if layer is proxy:
            break
        outer = layer
    else:
        return True
    original = proxy.__wrapped__
    if outer is None:
        if _find_inherited(owner, name) is original:
            delattr(owner, name)
        else:
            setattr(owner, name, original)
        return True
    # `isinstance` would ask the function that a proxy wraps, too.
    if not issubclass(type(outer), _PROXY_TYPE):
        return False
    outer.__wrapped__ = original
    return True


def iterate_layers(function: Any) -> Iterator[Any]:
    """Yield the wrappers around a function from the outermost, and the function."""
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)


def _find_inherited(owner: Any, name: str) -> Any:
    """Return what a class inherits under a name; None for a module."""
    return next((vars(base)[name] for base in getattr(owner, "__mro__", ())[1:] if name in vars(base)), None)
