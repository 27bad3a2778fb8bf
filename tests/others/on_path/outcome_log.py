"""pytest plugin: append the outcome of each phase of a test to the file that `OTHERS_OUTCOMES` names.

A line is a JSON array: node id, phase, outcome.
"""

import json
import os
from pathlib import Path

import pytest

_FILE = Path(os.environ["OTHERS_OUTCOMES"])


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # xdist's workers send their reports to the main process
        config.pluginmanager.register(_OutcomeLog())


class _OutcomeLog:
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        with _FILE.open("a", encoding="utf-8") as file:
            file.write(json.dumps([report.nodeid, report.when, report.outcome]) + "\n")
