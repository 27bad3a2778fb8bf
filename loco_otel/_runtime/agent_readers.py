"""The running agent according to agent frameworks: pushed by their hooks, or read from them in order of rank.

Frameworks run each other's agents, and the innermost names the call. Pushes are nested. A reader has no order relative
to them, so each push notes what the readers returned then: one that returns something else later was entered within.

If a reader raises or returns invalid names, only these names are missing. Its first error is logged and kept for the
doctor.
"""

import logging
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

from loco_otel._fork import ForkSafeLock

_logger = logging.getLogger("loco_otel")

MAX_NAME_LENGTH = 200
"""The most characters of a name from a framework, a span or baggage."""


class PartialIdentity(NamedTuple):
    """The origin of a call according to one source; None for each unknown part."""

    agent: str | None = None
    workflow: str | None = None
    session: str | None = None
    run: str | None = None
    """The framework's id of the piece of work. Of nested pieces the outermost counts: what a run starts is its own."""


class IdentityReader(Protocol):
    """Reads the running agent from one framework."""

    name: str
    """The framework's name, in the log and in the doctor."""
    rank: int
    """The position among the readers; the lowest is read first."""

    def read_identity(self) -> PartialIdentity | None:
        """Return the identity of this thread or task; None outside the framework."""


_NOTHING = PartialIdentity()


class PushedIdentity(NamedTuple):
    """An identity that a hook pushed."""

    key: object
    """Identifies it for `pop_identity`."""
    identity: PartialIdentity
    """What was pushed, completed by what was known around it."""
    readings: dict[str, PartialIdentity]
    """What each reader returned at that time."""


pushed_identities: ContextVar[tuple[PushedIdentity, ...]] = ContextVar("loco_otel_pushed", default=())
"""The identities that hooks pushed in this context; the innermost last."""

readers: tuple[IdentityReader, ...] = ()
"""The readers of all imported frameworks, by rank."""

faults: dict[str, str] = {}
"""The first error of each framework's reader or hook, by the framework's name."""

_lock = ForkSafeLock()


def add_reader(reader: IdentityReader) -> None:
    """Add a framework's reader, or replace the one of the same name. Thread-safe."""
    global readers  # noqa: PLW0603 - replaced as a whole, so that calls read it without a lock
    with _lock:
        others = [other for other in readers if other.name != reader.name]
        readers = tuple(sorted([*others, reader], key=lambda other: other.rank))


def clear_readers() -> None:
    """Remove all readers."""
    global readers  # noqa: PLW0603 - see above
    with _lock:
        readers = ()


def push_identity(key: object, identity: PartialIdentity) -> None:
    """Set the identity of this context, until `pop_identity` with the same key. None keeps what is known around it.

    Raises:
        TypeError: a name is not a string.

    """
    pushed = pushed_identities.get()
    readings = _read_all()
    around = _merge_sources(pushed, readings)
    known = _complete(_check_identity(identity), around)
    if around.run is not None and around.run != known.run:
        known = known._replace(run=around.run)
    pushed_identities.set((*pushed, PushedIdentity(key, known, readings)))


def pop_identity(key: object) -> None:
    """Undo a push and all later ones; no-op in a context without it."""
    pushed = pushed_identities.get()
    for index, entry in enumerate(pushed):
        if entry.key is key:
            pushed_identities.set(pushed[:index])
            return


def read_frameworks() -> PartialIdentity:
    """Return the identity of this context according to all frameworks. Never raises."""
    return _merge_sources(pushed_identities.get(), _read_all())


def _merge_sources(pushed: tuple[PushedIdentity, ...], readings: dict[str, PartialIdentity]) -> PartialIdentity:
    """Return the readings from within the innermost push, completed by that, and by the other readings."""
    found = _NOTHING
    if pushed:
        _, identity, before = pushed[-1]
        for name, reading in readings.items():
            known = before.get(name, _NOTHING)
            if reading != known:
                # A name that has not changed may be inherited: the push is within it.
                changed = (new if new != old else None for new, old in zip(reading, known, strict=True))
                found = _complete(found, PartialIdentity(*changed))
        found = _complete(found, identity)
        if identity.run is not None and identity.run != found.run:
            found = found._replace(run=identity.run)
    for reading in readings.values():
        found = _complete(found, reading)
    return found


def _read_all() -> dict[str, PartialIdentity]:
    """Return what each reader returns here, by rank; nothing for one that fails."""
    readings = {}
    for reader in readers:
        try:
            readings[reader.name] = read_names(reader)
        except Exception as error:
            record_reader_fault(reader.name, error)
    return readings


def _complete(identity: PartialIdentity, other: PartialIdentity) -> PartialIdentity:
    if other is _NOTHING or None not in identity:
        return identity
    return PartialIdentity(
        identity.agent or other.agent,
        identity.workflow or other.workflow,
        identity.session or other.session,
        identity.run or other.run,
    )


def read_names(reader: IdentityReader) -> PartialIdentity:
    """Return the names that one reader returns here; none outside its framework.

    Raises:
        TypeError: it returned something else. It may raise anything.

    """
    read = reader.read_identity()
    return _NOTHING if read is None else _check_identity(read)


def record_reader_fault(framework: str, error: Exception) -> None:
    """Log a framework's first error, and keep it for the doctor."""
    if framework not in faults:
        faults[framework] = " ".join(f"{type(error).__name__}: {error}".split())
        _logger.error(
            "loco-otel cannot read the running agent from %s: calls queue under the agent of the current span, or else"
            " the default (LOCO_AGENT_ID) (logged once)",
            framework,
            exc_info=error,
        )


def clean_name(name: str) -> str | None:
    """Return a name of at most 200 characters that is valid Unicode; None if it is empty."""
    return replace_surrogates(name[:MAX_NAME_LENGTH]) or None


def replace_surrogates(text: Any) -> Any:
    """Replace each lone surrogate by U+FFFD, as one makes an exporter lose its whole batch. No-op for other values."""
    if not isinstance(text, str) or text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _check_identity(identity: object) -> PartialIdentity:
    if not isinstance(identity, PartialIdentity):
        raise TypeError(f"an identity must be a PartialIdentity, not {type(identity).__name__}")
    return PartialIdentity(*map(_check_name, PartialIdentity._fields, identity))


def _check_name(field: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{field} must be a string, not {type(value).__name__}")
    return clean_name(value)
