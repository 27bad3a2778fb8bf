"""The running agent according to agent frameworks: pushed by their hooks, or read from them in order of rank.

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


class IdentityReader(Protocol):
    """Reads the running agent from one framework."""

    name: str
    """The framework's name, in the log and in the doctor."""
    rank: int
    """The position among the readers; the lowest is read first."""

    def read_identity(self) -> PartialIdentity | None:
        """Return the identity of this thread or task; None outside the framework."""


_NOTHING = PartialIdentity()

pushed_identities: ContextVar[tuple[tuple[object, PartialIdentity], ...]] = ContextVar("loco_otel_pushed", default=())
"""The identities that hooks pushed in this context, each with its key; the innermost last."""

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
    """Set the identity of this context, until `pop_identity` with the same key.

    Raises:
        TypeError: a name is not a string.

    """
    pushed_identities.set((*pushed_identities.get(), (key, _check_identity(identity))))


def pop_identity(key: object) -> None:
    """Undo a push and all later ones; no-op in a context without it."""
    pushed = pushed_identities.get()
    for index, (other, _) in enumerate(pushed):
        if other is key:
            pushed_identities.set(pushed[:index])
            return


def read_frameworks() -> PartialIdentity:
    """Return the identity pushed in this context, completed by the readers. Never raises."""
    pushed = pushed_identities.get()
    found = pushed[-1][1] if pushed else _NOTHING
    for reader in readers:
        if None not in found:
            break
        try:
            read = reader.read_identity()
            if read is not None:
                agent, workflow, session = _check_identity(read)
                found = PartialIdentity(found.agent or agent, found.workflow or workflow, found.session or session)
        except Exception as error:
            record_reader_fault(reader.name, error)
    return found


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
