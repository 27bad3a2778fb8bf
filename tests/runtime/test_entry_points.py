"""One scan of the installed distributions serves all groups, until the next one."""

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from loco_otel._runtime import entry_points
from loco_otel._runtime.entry_points import AGENT_READERS, INSTRUMENTORS, list_entry_points, scan_entry_points


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """What a scan finds. The test may add to it."""
    points: list[EntryPoint] = []
    monkeypatch.setattr(entry_points, "_found", {})
    monkeypatch.setattr(entry_points, "entry_points", lambda: EntryPoints(points))
    return points


def test_listing_reads_the_last_scan_of_both_groups(installed: list[EntryPoint]) -> None:
    installed += [EntryPoint(name, "module:attr", INSTRUMENTORS) for name in ("loco_b", "loco_a")]
    assert [point.name for point in list_entry_points(INSTRUMENTORS)] == ["loco_a", "loco_b"]
    installed.append(EntryPoint("framework", "module:attr", AGENT_READERS))
    assert list_entry_points(AGENT_READERS) == []


def test_scan_finds_what_was_installed_since(installed: list[EntryPoint]) -> None:
    assert list_entry_points(AGENT_READERS) == []
    installed.append(EntryPoint("framework", "module:attr", AGENT_READERS))
    scan_entry_points()
    assert [point.name for point in list_entry_points(AGENT_READERS)] == ["framework"]
