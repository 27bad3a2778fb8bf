"""The comparison of the two runs that `make others` makes of the tests of another project."""

import json
from pathlib import Path

from outcomes import describe_counts, list_regressions, read_outcomes


def _write_log(file: Path, *phases: tuple[str, str, str]) -> Path:
    file.write_text("".join(json.dumps(phase) + "\n" for phase in phases), encoding="utf-8")
    return file


def test_outcome_is_that_of_the_worst_phase(tmp_path: Path) -> None:
    log = _write_log(
        tmp_path / "log",
        *((test, "setup", "passed") for test in ("passes", "fails", "leaks", "dies")),
        ("passes", "call", "passed"),
        ("fails", "call", "failed"),
        ("leaks", "call", "passed"),
        ("leaks", "teardown", "failed"),
        ("skips", "setup", "skipped"),
        ("breaks", "setup", "failed"),
        *((test, "teardown", "passed") for test in ("passes", "fails", "skips", "breaks")),
    )
    outcomes = read_outcomes(log)
    assert outcomes == {
        "passes": "passed",
        "fails": "failed",
        "leaks": "failed",
        "skips": "skipped",
        "breaks": "failed",
    }
    assert describe_counts(outcomes) == "1 passed, 3 failed, 1 skipped"


def test_outcomes_without_log_are_none(tmp_path: Path) -> None:
    assert read_outcomes(tmp_path / "log") == {}


def test_regression_is_what_passes_in_the_bare_run_alone() -> None:
    bare = dict.fromkeys(("same", "worse", "gone", "skipped"), "passed") | {"bad": "failed", "mended": "failed"}
    scheduled = {"same": "passed", "worse": "failed", "skipped": "skipped", "bad": "failed", "mended": "passed"}
    assert list_regressions(bare, scheduled) == ["worse", "gone", "skipped"]
