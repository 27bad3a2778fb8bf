"""The entry points that loco-otel loads, of all installed distributions.

A scan reads a file of each distribution, so one scan serves both groups.
"""

from importlib.metadata import EntryPoint, EntryPoints, entry_points

INSTRUMENTORS = "opentelemetry_instrumentor"
"""OpenTelemetry's instrumentors, one for each SDK."""
AGENT_READERS = "loco_otel_agent_identity"
"""The readers of agent frameworks."""

_found: dict[str, EntryPoints] = {}
"""What the last scan found, by group."""


def scan_entry_points() -> None:
    """Find what is installed now."""
    found = entry_points()
    _found.update({group: found.select(group=group) for group in (INSTRUMENTORS, AGENT_READERS)})


def list_entry_points(group: str) -> list[EntryPoint]:
    """Return the entry points of a group as of the last scan, sorted by name."""
    if not _found:
        scan_entry_points()
    return sorted(_found[group], key=lambda entry: entry.name)
