"""docs/add-an-sdk.md, followed literally: its example becomes a folder, which passes the conformance suite."""

import re
import subprocess
import sys
import tomllib
from os import environ, pathsep
from pathlib import Path

import fake_distributions

ROOT = Path(__file__).parents[1]
SUPPORT = ROOT / "tests" / "support"
PAGE = (ROOT / "docs" / "add-an-sdk.md").read_text()

REGISTER = """
from dataclasses import replace

import conformance
import loco_otel_instrumentation
import toyllm
from conformance import ConformingSdk

loco_otel_instrumentation.__path__.append({folder!r})
"""
"""What the plug-in of the suite does before it adds the row: elsewhere the folder would be in the repository."""

SHORTEN = "conformance.SDKS = tuple(replace(row, mixed_share=0.2) for row in rows)\n"


def read_blocks(language: str) -> list[str]:
    """Return the code of the page."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def make_folder(directory: Path) -> None:
    """Do what the page describes, outside the repository."""
    adapter, instrumentor, create, row = read_blocks("python")
    (project,) = read_blocks("toml")
    folder = directory / "instrumentation" / "toyllm"
    folder.mkdir(parents=True)
    (folder / "adapter.py").write_text(adapter)
    (folder / "__init__.py").write_text(instrumentor)
    fake_distributions.put(directory, "toyllm", "1.0")
    group = tomllib.loads(project)["project"]["entry-points"]["opentelemetry_instrumentor"]
    lines = [f"{name} = {value}" for name, value in group.items()]
    (directory / "toyllm-1.0.dist-info" / "entry_points.txt").write_text(
        "\n".join(["[opentelemetry_instrumentor]", *lines, ""])
    )
    register = REGISTER.format(folder=str(folder.parent))
    (directory / "toyllm_row.py").write_text(f"{register}\n{create}\nrows = (\n{row})\n{SHORTEN}")


def test_example_of_page_passes_conformance_suite(tmp_path: Path) -> None:
    make_folder(tmp_path)
    path = pathsep.join(map(str, (tmp_path, SUPPORT, *filter(None, [environ.get("PYTHONPATH")]))))
    suite = ROOT / "tests" / "instrumentation" / "test_conformance.py"
    options = ("-q", "-p", "toyllm_row", "-p", "no:cacheprovider", "-p", "no:randomly")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, suite, "-k", "toyllm"],
        env={**environ, "PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    # In four modes: peak and usage; two streams, three ends each; two async modes; mixed calls.
    assert int(passed[1]) == 2 * 4 + 2 * 3 + 2 + 1
    assert "skipped" not in done.stdout.splitlines()[-1]
