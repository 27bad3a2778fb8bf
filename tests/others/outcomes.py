"""The outcomes of two runs of the same tests, read from the logs of the plugin `outcome_log` and compared."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

Outcomes = Mapping[str, str]
"""The outcome of each test by its node id: passed, failed or skipped."""


def read_outcomes(log: Path) -> Outcomes:
    """Return the outcome of each test of a run: the worst of its set-up, call and teardown.

    A test whose call was not logged has not passed: its process ended.
    """
    outcomes: dict[str, str] = {}
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        test, phase, outcome = json.loads(line)
        if outcome != "passed":
            outcomes[test] = "failed" if outcome == "failed" else outcomes.get(test, outcome)
        elif phase == "call":
            outcomes.setdefault(test, outcome)
    return outcomes


def list_regressions(bare: Outcomes, scheduled: Outcomes) -> list[str]:
    """Return the tests that pass in the first run and not in the second, those that are missing there included."""
    return [test for test, outcome in bare.items() if outcome == "passed" and scheduled.get(test) != "passed"]


def describe_counts(outcomes: Outcomes) -> str:
    """Return the number of tests by outcome as text."""
    counts = Counter(outcomes.values())
    return ", ".join(f"{counts[outcome]:,} {outcome}" for outcome in ("passed", "failed", "skipped"))
