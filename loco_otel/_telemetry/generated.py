"""Generated files: written by `make docs`, and checked by the tests."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def run_generator(command: str, render: Callable[[], str], arguments: Sequence[str] | None = None) -> int:
    """Write the file that `command PATH [--check]` names, or check that it is up to date.

    Returns:
        The exit status: 1 when the file is stale.

    """
    parser = argparse.ArgumentParser(prog=command, description="Write a generated file.")
    parser.add_argument("path", type=Path, help="the file")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the file is stale")
    options = parser.parse_args(arguments)
    path: Path = options.path
    text = render()
    if not options.check:
        path.write_text(text, encoding="utf-8")
    elif not path.exists() or path.read_text(encoding="utf-8") != text:
        sys.stderr.write(f"{path} is stale: run `{command} {path}` and commit the result\n")
        return 1
    return 0
