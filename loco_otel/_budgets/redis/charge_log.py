"""What a process has spent lately, numbered, so that a server applies each charge once. Without sockets or threads.

The server stores the number of the last charge of each process in the same step as the charge. After a failure it
returns that number: charges up to it were applied, those after it were not. A server that restarts from its append-only
file may have lost its last second: charges that it had confirmed, and whose number it no longer has, are sent again.

Times are the server's: a process that was suspended returns with a clock that stood still. Not thread-safe: the link
calls it under its lock.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

Operation: TypeAlias = Sequence[Any]
"""A JSON array that begins with its kind, see `ledger.lua`."""
MakeOperation: TypeAlias = Callable[[float, int], Operation]
"""Returns an operation for a time of the server and a number; 0 is none."""

REPLAY_SECONDS = 10.0
"""For so long a confirmed charge is kept."""
_UNRETURNED_SECONDS = 3600.0
"""For so long it is kept if its caller might repeat it."""
MAX_ENTRIES = 20_000
"""Confirmed charges that are kept at most."""


class ChargeEntry:
    """One charge."""

    __slots__ = ("confirmed_at", "id", "is_returned", "make", "number", "pending")

    def __init__(self, charge_id: str, make: MakeOperation) -> None:
        self.id = charge_id
        self.make = make
        self.number: int | None = None
        """None if it was not sent since the last sync."""
        self.pending: Any = None
        """What the link has sent of it."""
        self.confirmed_at: float | None = None
        self.is_returned = False
        """Whether its caller knows that it was applied, and so won't repeat it."""


class ChargeLog:
    """The charges of one process, by the id of the call."""

    def __init__(self) -> None:
        self._entries: dict[str, ChargeEntry] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._entries)

    def open_charge(self, charge_id: str, make: MakeOperation) -> ChargeEntry:
        """Return the entry of a charge, which is that of an earlier attempt if one was sent.

        It is kept once it has a number: charges that cannot be sent are kept by their callers alone, who bound them.
        """
        return self._entries.get(charge_id) or ChargeEntry(charge_id, make)

    def number_charge(self, entry: ChargeEntry) -> int:
        """Return the next number, under which the caller must send the charge before any other."""
        self._last += 1
        entry.number = self._last
        self._entries[entry.id] = entry
        return self._last

    def withdraw_charge(self, entry: ChargeEntry) -> bool:
        """Take back the number of a charge that the server did not apply; return False if later ones were sent."""
        if entry.number != self._last:
            return False
        self._last -= 1
        entry.number = None
        return True

    def confirm_charge(self, entry: ChargeEntry, now: float) -> None:
        """Record that the server has applied a charge."""
        entry.confirmed_at = now

    def prune(self, now: float) -> None:
        """Forget what a server that answers now cannot lose any more."""
        for charge_id in list(self._entries):
            entry = self._entries[charge_id]
            if entry.confirmed_at is None:
                continue
            age = now - entry.confirmed_at
            if age <= REPLAY_SECONDS and len(self._entries) <= MAX_ENTRIES:
                return  # later ones are younger
            if entry.is_returned or age > _UNRETURNED_SECONDS:
                del self._entries[charge_id]

    def resume(self, last: int, now: float) -> tuple[list[ChargeEntry], list[ChargeEntry]]:
        """Continue after the number of the last charge that the server has.

        Returns:
            The charges that turn out to be applied, and those that were confirmed and lost, which must be sent again.

        """
        applied, lost = [], []
        for entry in sorted(self._entries.values(), key=lambda entry: entry.number or 0):
            if entry.number is None:
                continue
            if entry.number <= last:
                if entry.confirmed_at is None:
                    entry.confirmed_at = now
                    applied.append(entry)
                continue
            entry.number = None
            if entry.confirmed_at is None:
                del self._entries[entry.id]  # its caller repeats it
            elif now - entry.confirmed_at > _UNRETURNED_SECONDS:
                del self._entries[entry.id]  # not lost: the server forgets a process that is silent for a day
            else:
                lost.append(entry)
        self._last = last
        return applied, lost
