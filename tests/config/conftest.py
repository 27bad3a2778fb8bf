"""What the tests of the settings share."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str | bytes], dict[str, str]]:
    """Write the file, and return the environment that names it."""

    def write(text: str | bytes) -> dict[str, str]:
        path = tmp_path / "loco.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return {"LOCO_CONFIG": str(path)}

    return write
