"""Writes the generated files below `dashboards/`, or checks them: `python -m dashboards.builder [--check]`."""

import argparse
import sys
from pathlib import Path

from dashboards.builder.files import render_files

ROOT = Path(__file__).parent.parent


def main() -> int:
    """Write the files, or return 1 if one of them is stale."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.builder", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is stale")
    is_check = parser.parse_args().check
    stale = []
    for name, text in render_files().items():
        path = ROOT / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not is_check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if is_check and stale:
        sys.stderr.write(f"stale: {', '.join(stale)}. Run `make dashboards` and commit the result\n")
        return 1
    return 0


sys.exit(main())
