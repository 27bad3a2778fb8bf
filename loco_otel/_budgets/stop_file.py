"""The file that `LOCO_STOP_FILE` names: what it stops, read again whenever it has changed."""

import logging
from collections.abc import Mapping
from pathlib import Path

from loco_otel._budgets.stops import Stop, parse_stop_file

_logger = logging.getLogger("loco_otel")

_MAX_BYTES = 1_000_000


class StopFile:
    """Reads the file. A file that is missing stops nothing; one that cannot be read changes nothing.

    `has_changed` is thread-safe; the owner holds a lock for `read_stops`.

    Args:
        path: the file, which need not exist.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_state: object = None
        """The state of the file when it was last read successfully."""
        self._fault: str | None = None
        """Why it cannot be read, once that was logged."""

    def has_changed(self) -> bool:
        """Return whether the file differs from what was last read. True while it cannot be read."""
        try:
            return _find_state(self.path) != self._read_state
        except OSError:
            return True

    def read_stops(self) -> Mapping[Stop, bool] | None:
        """Return what the file stops; None if it has not changed or cannot be read, which is logged once."""
        try:
            state = _find_state(self.path)  # first, so that a change during the read is read next
            if state == self._read_state:
                return None
            content = b"" if state is None else _read_content(self.path)
        except OSError as error:
            self._log_fault(str(error))
            return None
        if len(content) > _MAX_BYTES:
            self._log_fault(f"it has more than {_MAX_BYTES} bytes")
            return None
        self._read_state, self._fault = state, None
        stops, faults = parse_stop_file(content.decode("utf-8-sig", "replace").splitlines())
        for fault in faults:
            _logger.warning(
                "the stop file %s has a line that names nothing: %r (write run=, session=, agent=, tenant= or *)",
                self.path,
                fault,
            )
        names = ", ".join(map(_format_stop, stops)) or "nothing"
        level = logging.WARNING if stops else logging.INFO
        _logger.log(level, "the stop file %s was read: it stops %s", self.path, names)
        return stops

    def _log_fault(self, fault: str) -> None:
        if fault != self._fault:
            self._fault = fault
            _logger.warning("the stop file %s cannot be read, what it named before stays stopped: %s", self.path, fault)


def _find_state(path: Path) -> object:
    """Return what changes when a file is written; None if there is no file.

    Raises:
        OSError: that cannot be found out.

    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read_content(path: Path) -> bytes:
    """Return the start of a file, one byte longer than a stop file may be."""
    with path.open("rb") as file:
        return file.read(_MAX_BYTES + 1)


def _format_stop(stop: Stop) -> str:
    return "everything" if stop.key == "*" else f"{stop.scope}={stop.key}"
