"""Replaces the output on a page by what the doctor prints: `python tests/support/doctor_page.py docs/doctor.md`."""

import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from doctor_process import doctor_in


def find_block(page: str, language: str) -> str:
    """Return the only block of code in a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    return str(found)


def read_variables(page: str) -> dict[str, str]:
    """Return the variables that the page exports before it runs the doctor."""
    return dict(re.findall(r"^export (\w+)=(.*)$", find_block(page, "sh"), re.MULTILINE))


def run_doctor(variables: Mapping[str, str]) -> str:
    """Return what the doctor prints with these variables."""
    with tempfile.TemporaryDirectory() as folder:
        done = doctor_in(Path(folder))(**variables)
    if done.returncode:
        raise RuntimeError(f"the doctor failed: {done.stdout}{done.stderr}")
    return done.stdout


def main(path: Path) -> None:
    """Replace the block of output on the page."""
    page = path.read_text()
    path.write_text(page.replace(find_block(page, "text"), run_doctor(read_variables(page))))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
