"""What is stopped: runs, sessions, agents and tenants whose calls are refused. The format of `LOCO_STOP_FILE`."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from loco_otel.errors import StoppedError
from loco_otel.events import Request
from loco_otel.money import Scope

STOP_SCOPES = (Scope.RUN, Scope.SESSION, Scope.AGENT, Scope.TENANT)
"""What can be stopped, besides everything."""
_EVERYTHING = "*"
_ABORT = "abort_streams"

_KeysByScope: TypeAlias = tuple[tuple[Scope, frozenset[str]], ...]


class Stop(NamedTuple):
    """One run, session, agent or tenant that is stopped, or everything."""

    scope: Scope
    key: str
    """`*` for everything."""

    def make_error(self, request: Request) -> StoppedError:
        """Return the error of a call that it refuses."""
        whose = "all calls are" if self.scope is Scope.ALL else f"the {self.scope} {self.key!r} is"
        return StoppedError(
            f"A call of {request.agent!r} was refused: {whose} stopped (loco_otel.stop() or LOCO_STOP_FILE);"
            " loco_otel.resume() or a change of the file ends this",
            scope=self.scope.value,
            key=self.key,
            agent=request.agent,
            resource=",".join(request.resources),
        )


class Stops:
    """Everything that is stopped at one moment. Immutable, so that calls read it without a lock.

    Args:
        stops: what is stopped, each with whether open streams are closed too.

    """

    __slots__ = ("_aborts_by_scope", "_by_scope")

    def __init__(self, stops: Mapping[Stop, bool] = MappingProxyType({})) -> None:
        self._by_scope = _group_by_scope(stops)
        self._aborts_by_scope = _group_by_scope(stop for stop, aborts in stops.items() if aborts)

    def find_stop(self, request: Request) -> Stop | None:
        """Return what refuses a request; None if nothing does."""
        return _find_stop(self._by_scope, request)

    def find_abort(self, request: Request) -> Stop | None:
        """Return what closes the stream of a request; None if nothing does."""
        return _find_stop(self._aborts_by_scope, request)


def _group_by_scope(stops: Iterable[Stop]) -> _KeysByScope:
    """Return the stopped names of each scope that has any, that of everything first."""
    keys: dict[Scope, set[str]] = {scope: set() for scope in (Scope.ALL, *STOP_SCOPES)}
    for stop in stops:
        keys[stop.scope].add(stop.key)
    return tuple((scope, frozenset(names)) for scope, names in keys.items() if names)


def _find_stop(keys_by_scope: _KeysByScope, request: Request) -> Stop | None:
    for scope, keys in keys_by_scope:
        key = _EVERYTHING if scope is Scope.ALL else getattr(request, scope.value)
        if key in keys:
            return Stop(scope, key)
    return None


def parse_stop_file(lines: Iterable[str]) -> tuple[dict[Stop, bool], list[str]]:
    """Return what a stop file names, and the lines that name nothing.

    A line is `run=ID`, `session=ID`, `agent=NAME`, `tenant=NAME`, or `*` for everything; ` abort_streams` behind it
    closes open streams too. Empty lines and those that begin with `#` are comments.

    Example:
        >>> stops, faults = parse_stop_file(['# July', 'run=r-1 abort_streams', 'agent=crawler', 'everybody'])
        >>> [(str(stop.scope), stop.key, aborts) for stop, aborts in stops.items()], faults
        ([('run', 'r-1', True), ('agent', 'crawler', False)], ['everybody'])

    """
    stops: dict[Stop, bool] = {}
    faults = []
    for line in map(str.strip, lines):
        if not line or line.startswith("#"):
            continue
        named = line.removesuffix(_ABORT).rstrip() if line.endswith(f" {_ABORT}") else line
        scope, equals, key = (part.strip() for part in named.partition("="))
        if named == _EVERYTHING:
            stops[Stop(Scope.ALL, _EVERYTHING)] = named != line
        elif equals and key and scope in STOP_SCOPES:
            stops[Stop(Scope(scope), key)] = named != line
        else:
            faults.append(line)
    return stops, faults
