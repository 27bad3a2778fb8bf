"""What every test starts with: no scheduler, no setting of the shell that runs the tests, nothing said yet."""

import os
from collections.abc import Iterator

import pytest

from loco_otel._runtime import faults, process


@pytest.fixture(autouse=True)
def fresh_runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the process's scheduler before and after; whoever still waits then is turned away."""
    for name in tuple(os.environ):
        if name.startswith(("LOCO_", "OTEL_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(faults, "_logged", set())
    process.replace_runtime(None)
    yield
    process.replace_runtime(None)
