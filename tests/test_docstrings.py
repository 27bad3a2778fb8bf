"""The examples in docstrings run, and public modules have one for each function and class."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PUBLIC = ("api", "errors", "money", "testing")
"""Modules whose every symbol has an example; those of `events` are for the values that programs create or read."""
RUN_DOCTESTS = """\
import doctest, importlib, sys
failed, tried = doctest.testmod(importlib.import_module(sys.argv[1]))
print(tried)
sys.exit(failed > 0)
"""


def _list_documented(file: Path) -> list[tuple[str, str]]:
    """Return the name and docstring of each public function and class of a module."""
    return [
        (node.name, ast.get_docstring(node) or "")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]


def _find_modules_with_examples() -> list[str]:
    files = sorted((ROOT / "loco_otel").rglob("*.py"))
    with_examples = (file for file in files if "Example:" in file.read_text(encoding="utf-8"))
    return [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in with_examples]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_module_documents_each_symbol_by_example(name: str) -> None:
    documented = _list_documented(ROOT / "loco_otel" / f"{name}.py")
    assert documented
    assert [symbol for symbol, text in documented if "Example:\n" not in text or ">>> " not in text] == []


@pytest.mark.parametrize("module", _find_modules_with_examples())
def test_docstring_examples_run(module: str) -> None:
    command = [sys.executable, "-W", "error", "-c", RUN_DOCTESTS, module]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert int(done.stdout) > 0
