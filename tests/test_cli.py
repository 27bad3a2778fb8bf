"""`loco-otel doctor` and `version`, run as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import loco_otel

HIDE = """
import importlib.metadata, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"openai", "anthropic"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
real = importlib.metadata.version
def version(name):
    if name in {"openai", "anthropic"}:
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)
importlib.metadata.version = version
"""


def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("LOCO_", "OTEL_"))}
    return subprocess.run(
        [sys.executable, "-m", "loco_otel.cli", *words],
        env=clean | environ,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_doctor_finds_both_sdks_patched() -> None:
    done = run("doctor", LOCO_CAPACITY="3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("4 methods patched") == 2
    assert "Calls are scheduled." in done.stdout
    assert "limit of 3 holds in each process" in done.stdout
    assert "\x1b" not in done.stdout


def test_doctor_tells_where_a_value_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "loco.toml"
    path.write_text("max_waiters = 7\n")
    done = run("doctor", LOCO_CAPACITY="3", LOCO_CONFIG=str(path))
    rows = {line.split("│")[1].strip(): line for line in done.stdout.splitlines() if line.startswith("│")}
    assert "LOCO_CAPACITY" in rows["capacity"]
    assert str(path) in rows["max_waiters"]
    assert "default" in rows["policy"]


def test_doctor_says_that_nothing_waits_without_a_capacity() -> None:
    done = run("doctor")
    assert done.returncode == 0
    assert "LOCO_CAPACITY is not set: calls are observed, and none waits." in done.stdout


def test_doctor_warns_of_a_misspelt_variable() -> None:
    assert "did you mean LOCO_CAPACITY?" in run("doctor", LOCO_CAPCITY="3").stdout


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"LOCO_CAPACITY": "two"}, "LOCO_CAPACITY=two: must be auto or a whole number of at least 1"),
        ({"LOCO_ENABLED": "false"}, "LOCO_ENABLED is false"),
        ({"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "loco_openai"}, "disabled by OTEL_PYTHON_DISABLED"),
        ({"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*"}, "disabled by OTEL_PYTHON_DISABLED"),
    ],
)
def test_doctor_fails_when_calls_would_go_unscheduled(environ: dict[str, str], reason: str) -> None:
    done = run("doctor", **environ)
    assert done.returncode == 1
    assert reason in done.stdout
    assert "unscheduled" in done.stdout


def test_doctor_fails_when_no_sdk_is_installed(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    done = run("doctor", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "No supported SDK is installed" in done.stdout


def test_version() -> None:
    assert run("version").stdout.splitlines()[0] == f"loco-otel {loco_otel.__version__}"


@pytest.mark.parametrize("words", [("-h",), ("--help",), ("doctor", "--help"), ("version", "-h")])
def test_help(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.returncode == 0
    assert "Usage:" in done.stdout


def test_an_unknown_command_is_named() -> None:
    done = run("docter")
    assert done.returncode != 0
    assert "docter" in done.stderr
