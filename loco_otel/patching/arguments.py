"""How the request is found in the arguments of a wrapped method: by position or by name, as data of the target."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

CallArguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""


class SingleArgument(NamedTuple):
    """The request is one argument of several."""

    name: str
    position: int

    def read_request(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return the request; None where it was not given."""
        return args[self.position] if len(args) > self.position else kwargs.get(self.name)

    def replace_request(self, request: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> CallArguments:
        """Return the arguments with another request."""
        position = self.position
        if len(args) > position:
            return (*args[:position], request, *args[position + 1 :]), kwargs
        return args, {**kwargs, self.name: request}


class NamedArguments(NamedTuple):
    """The request is all arguments together: a mapping by name. Those that were positional stay so.

    A request that is sent instead may have more of them, which are given by name.
    """

    names: tuple[str, ...]

    def read_request(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments by name."""
        return {**dict(zip(self.names, args, strict=False)), **kwargs}

    def replace_request(
        self, request: Mapping[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> CallArguments:
        """Return the arguments with other values. Names that were not given are added as keywords."""
        positional = self.names[: len(args)]
        return (
            (*(request[name] for name in positional), *args[len(positional) :]),
            {**kwargs, **{name: value for name, value in request.items() if name not in positional}},
        )


Arguments: TypeAlias = SingleArgument | NamedArguments
"""How the arguments of a target are read and written."""

STAINLESS_OPTIONS = SingleArgument("options", 1)
"""The request of `request(cast_to, options, ...)`."""
