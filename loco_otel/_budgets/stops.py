"""What is stopped: runs, sessions, agents and tenants whose calls are refused. The format of `LOCO_STOP_FILE`."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from loco_otel.errors import StoppedError
from loco_otel.events import Request
from loco_otel.money import Scope

STOP_SCOPES = (Scope.RUN, Scope.SESSION, Scope.AGENT, Scope.TENANT)
"""What can be stopped, besides everything."""
_EVERYTHING = "*"
_ABORT = "abort_streams"


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

    __slots__ = ("_by_scope", "stops")

    def __init__(self, stops: Mapping[Stop, bool] = MappingProxyType({})) -> None:
        self.stops = stops
        self._by_scope = tuple(
            (scope, frozenset(stop.key for stop in stops if stop.scope is scope))
            for scope in (Scope.ALL, *STOP_SCOPES)
            if any(stop.scope is scope for stop in stops)
        )

    def __bool__(self) -> bool:
        return bool(self._by_scope)

    def find_stop(self, request: Request) -> Stop | None:
        """Return what refuses a request; None if nothing does."""
        for scope, keys in self._by_scope:
            key = _EVERYTHING if scope is Scope.ALL else getattr(request, scope.value)
            if key in keys:
                return Stop(scope, key)
        return None

    def find_abort(self, request: Request) -> Stop | None:
        """Return what closes the stream of a request; None if nothing does."""
        for stop, aborts in self.stops.items():
            if aborts and stop.key == (_EVERYTHING if stop.scope is Scope.ALL else getattr(request, stop.scope.value)):
                return stop
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
