"""docs/telemetry.md is made from the catalogue, and has all that is in it."""

from itertools import pairwise
from pathlib import Path

import pytest

from loco_otel._telemetry.catalogue import METRICS, SPANS
from loco_otel._telemetry.page import main, render_page

PAGE = Path(__file__).parents[2] / "docs" / "telemetry.md"


def test_page_is_current() -> None:
    assert main([str(PAGE), "--check"]) == 0


def test_page_is_complete() -> None:
    page = render_page()
    for row in METRICS:
        assert f"| `{row.prometheus_name}` | `{row.name}` | {row.kind} | `{row.unit}` |" in page
        assert row.description in page
    for span in SPANS:
        assert f"### `{span.name}`" in page
        for event in span.events:
            assert f"#### Event `{event.name}`" in page


def test_tables_are_whole() -> None:
    lines = render_page().splitlines()
    for above, line in pairwise(lines):
        if above.startswith("|") and line.startswith("|"):
            assert above.count("|") == line.count("|")


def test_page_is_written_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "telemetry.md"
    assert main([str(path), "--check"]) == 1
    assert f"{path} is stale: run `python -m loco_otel._telemetry.page {path}`" in capsys.readouterr().err
    assert not path.exists()
    assert main([str(path)]) == 0
    assert main([str(path), "--check"]) == 0
    path.write_text(path.read_text(encoding="utf-8") + "edited", encoding="utf-8")
    assert main([str(path), "--check"]) == 1
