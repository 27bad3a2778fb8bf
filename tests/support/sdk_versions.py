"""The pair of SDK versions under test, and what those before a certain one do not have."""

import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

PAIRS = Path(__file__).parents[1] / "pairs"
"""Requirement files, one for each pair that is tested beside the newest, which the extra `test` installs."""

PAIR = os.environ.get("SDK_PAIR", "")
"""Whose overlay comes before what is installed (`make test-pairs` sees to it); empty for the newest."""


def has(sdk: str, first: str) -> bool:
    """Return whether an SDK is of a version or a later one."""
    return Version(version(sdk)) >= Version(first)


def since(sdk: str, first: str) -> Any:
    """Mark a test of what an SDK has since a version: with the newest pair every test must run."""
    missing = not has(sdk, first)
    assert PAIR or not missing, f"the newest pair is to have all, but {sdk} is older than {first}"
    return pytest.mark.skipif(missing, reason=f"{sdk} has it since {first}")


TRACES_ITSELF = find_spec("anthropic._tracing") is not None
"""Whether Anthropic's SDK makes inference spans by itself."""
BEDROCK_KEY = {"api_key": "key"} if has("anthropic", "0.88") else {"aws_access_key": "key", "aws_secret_key": "key"}
"""What its client for Bedrock requires."""
