"""`loco-otel version` and `loco-otel doctor`, as a user runs them."""

import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner
from doctor_process import Doctor
from fake_distributions import ALL_SDKS, hide, list_installed, put
from patience import PATIENCE

from loco_otel import __version__
from loco_otel._config.settings import Settings
from loco_otel.cli.main import main


def sdk_rows(output: str) -> Mapping[str, str]:
    return dict(re.findall(r"^  (anthropic|groq|openai) +(.*)$", output, re.MULTILINE))


def setting_rows(output: str) -> list[tuple[str, ...]]:
    _, _, rest = output.partition("where it comes from\n")
    return [tuple(re.split(r" {2,}", line.strip())) for line in rest.partition("\n\n")[0].splitlines()]


def last_line(output: str) -> str:
    return output.splitlines()[-1]


def test_version_is_printed() -> None:
    result = CliRunner().invoke(main, ["version"])
    assert result.exit_code == 0
    packages = ["opentelemetry-api", "opentelemetry-sdk", "opentelemetry-instrumentation", "opentelemetry-distro"]
    assert result.output.splitlines() == [
        f"loco-otel {__version__}",
        f"Python {platform.python_version()}",
        *(f"{package} {version(package)}" for package in packages),
    ]


def test_installed_command_runs() -> None:
    command = Path(sysconfig.get_path("scripts"), "loco-otel")
    done = subprocess.run([command, "version"], check=False, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0
    assert done.stdout.startswith(f"loco-otel {__version__}\n")


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("command", [[], ["version"], ["doctor"]])
def test_help_lists_commands(command: list[str], option: str) -> None:
    result = CliRunner().invoke(main, [*command, option])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: {' '.join(['main', *command])} ")


def test_unknown_command_fails() -> None:
    result = CliRunner().invoke(main, ["docter"])
    assert result.exit_code != 0
    assert "No such command 'docter'" in result.output


def test_doctor_passes_when_all_is_well(doctor: Doctor) -> None:
    done = doctor(LOCO_CAPACITY="4", LOCO_POLICY="fifo")
    assert (done.returncode, done.stderr) == (0, "")
    rows = {sdk: row.split(maxsplit=1) for sdk, row in sdk_rows(done.stdout).items()}
    assert rows == {sdk: [version(sdk), "patched, 7 methods"] for sdk in ("anthropic", "groq", "openai")}
    expected = Settings.load({"LOCO_CAPACITY": "4", "LOCO_POLICY": "fifo"}).rows()
    assert setting_rows(done.stdout) == [tuple(row) for row in expected]
    assert ("capacity", "4", "LOCO_CAPACITY") in expected
    assert "warning" not in done.stdout
    assert "Limits are per process" in done.stdout
    assert last_line(done.stdout) == f"Well: the calls of {list_installed()} are scheduled, at most 4 at a time"


def test_setting_from_a_file_is_shown(doctor: Doctor, tmp_path: Path) -> None:
    path = tmp_path / "loco.toml"
    path.write_text("capacity = 7\n")
    done = doctor(LOCO_CONFIG=str(path))
    assert done.returncode == 0
    assert ("capacity", "7", f"file {path}") in setting_rows(done.stdout)


def test_piped_output_is_plain(doctor: Doctor) -> None:
    done = doctor(LOCO_CAPACITY="4", LOCO_AGENT_ID=f"[red]{'long ' * 40}")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("  agent_id ")]
    assert "[red]long " in row
    assert row.endswith("LOCO_AGENT_ID")


def test_unlimited_capacity_is_reported(doctor: Doctor) -> None:
    done = doctor()
    assert done.returncode == 0
    assert last_line(done.stdout).endswith("are scheduled, as many at a time as their providers take")


def test_unknown_variable_is_reported(doctor: Doctor) -> None:
    done = doctor(LOCO_CAPACITY="4", LOCO_CAPCITY="4")
    assert (done.returncode, done.stderr) == (0, "")
    line = "  warning: LOCO_CAPCITY is not a setting of loco-otel; did you mean LOCO_CAPACITY?\n"
    assert done.stdout.count(line) == 1


def test_bad_setting_fails() -> None:
    result = CliRunner().invoke(main, ["doctor"], env={"LOCO_CAPACITY": "-1"})
    line = "LOCO_CAPACITY=-1: must be auto or a whole number of at least 0 (0 grants no slot)"
    assert result.exit_code == 1
    assert f"  error: {line}\n" in result.output
    assert last_line(result.output) == f"Not well: {line}"
    assert all("NOT patched: a setting cannot be used" in row for row in sdk_rows(result.output).values())


def test_disabled_package_is_reported() -> None:
    result = CliRunner().invoke(main, ["doctor"], env={"LOCO_ENABLED": "false"})
    assert result.exit_code == 1
    assert all("NOT patched: LOCO_ENABLED is false" in row for row in sdk_rows(result.output).values())
    assert last_line(result.output) == "Not well: no call is scheduled"


def test_one_disabled_sdk_is_reported(doctor: Doctor) -> None:
    done = doctor(LOCO_CAPACITY="4", OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="flask, loco_openai")
    rows = sdk_rows(done.stdout)
    assert done.returncode == 1
    assert "NOT patched: loco_openai is disabled by OTEL_PYTHON_DISABLED_INSTRUMENTATIONS" in rows["openai"]
    assert "patched, 7 methods" in rows["anthropic"]
    assert last_line(done.stdout) == "Not well: the calls of openai go unscheduled"


def test_all_disabled_sdks_are_reported() -> None:
    result = CliRunner().invoke(main, ["doctor"], env={"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*"})
    assert result.exit_code == 1
    assert last_line(result.output) == "Not well: no call is scheduled"


def test_one_missing_sdk_is_reported(doctor: Doctor, tmp_path: Path) -> None:
    hide(tmp_path, "openai")
    done = doctor(LOCO_CAPACITY="4")
    assert (done.returncode, done.stderr) == (0, "")
    assert sdk_rows(done.stdout)["openai"].split(maxsplit=1) == ["-", "not installed"]
    assert f"the calls of {list_installed('openai')} are scheduled" in last_line(done.stdout)


def test_all_missing_sdks_are_reported(doctor: Doctor, tmp_path: Path) -> None:
    hide(tmp_path, *ALL_SDKS)
    done = doctor(LOCO_CAPACITY="4")
    assert (done.returncode, done.stderr) == (1, "")
    assert last_line(done.stdout).startswith("Not well: none of the SDKs is installed")


def test_failed_patch_is_reported(doctor: Doctor, tmp_path: Path) -> None:
    put(tmp_path, "anthropic", "2.99.0", "")
    done = doctor(LOCO_CAPACITY="4")
    assert (done.returncode, done.stderr) == (1, "")
    row = sdk_rows(done.stdout)["anthropic"]
    assert row.startswith("2.99.0")
    assert re.search(r"NOT patched: patching failed: AttributeError: .* has no attribute 'SyncAPIClient'", row)
    assert last_line(done.stdout) == "Not well: the calls of anthropic go unscheduled"


def test_sdk_that_fails_to_import_is_reported(doctor: Doctor, tmp_path: Path) -> None:
    put(tmp_path, "anthropic", "2.99.0", "raise ImportError('libssl is missing')")
    done = doctor(LOCO_CAPACITY="4")
    assert (done.returncode, done.stderr) == (1, "")
    assert "NOT patched: it cannot be imported: ImportError: libssl is missing" in sdk_rows(done.stdout)["anthropic"]


def test_unsupported_version_is_reported(doctor: Doctor, tmp_path: Path) -> None:
    put(tmp_path, "anthropic", "0.1.0", "")
    done = doctor(LOCO_CAPACITY="4")
    assert "NOT patched: version not supported, it takes anthropic >= " in sdk_rows(done.stdout)["anthropic"]
    assert "  warning: anthropic 0.1.0 is left alone, its calls go unscheduled\n" in done.stdout
    assert done.returncode == 0
    assert f"the calls of {list_installed('anthropic')} are scheduled" in last_line(done.stdout)


def test_restored_method_counts_as_unpatched() -> None:
    program = """
from loco_otel_instrumentation.openai import OpenAIInstrumentor
from openai import _base_client as base
plain = base.SyncAPIClient.request
OpenAIInstrumentor().instrument()
print(len(OpenAIInstrumentor.list_patched()))
import wrapt
wrapt.wrap_function_wrapper(base.AsyncAPIClient, "request", lambda call, _, args, kwargs: call(*args, **kwargs))
print(len(OpenAIInstrumentor.list_patched()))
base.SyncAPIClient.request = plain
print(*OpenAIInstrumentor.list_patched())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    pauses = ("SyncAPIClient._sleep_for_retry", "AsyncAPIClient._sleep_for_retry")
    reads = ("SyncAPIClient._process_response", "AsyncAPIClient._process_response")
    names = ("AsyncAPIClient.request", *pauses, "BaseClient._build_request", *reads)
    assert done.stdout.splitlines() == ["7", "7", " ".join(f"openai._base_client.{name}" for name in names)]


def test_unusable_ledger_is_reported(doctor: Doctor, tmp_path: Path) -> None:
    done = doctor(LOCO_LEDGER=str(tmp_path))
    assert done.returncode == 1
    assert f"LOCO_LEDGER={tmp_path}: the ledger {tmp_path} can't be used: it is a folder" in done.stdout


def test_budgets_not_shared_by_workers_are_reported(doctor: Doctor, tmp_path: Path) -> None:
    said = "warning: WEB_CONCURRENCY makes 4 processes, each with budgets of its own: LOCO_LEDGER names a file"
    assert said in doctor(LOCO_BUDGETS="*=20", WEB_CONCURRENCY="4").stdout
    ledger = str(tmp_path / "ledger.db")
    assert "budgets of its own" not in doctor(LOCO_BUDGETS="*=20", WEB_CONCURRENCY="4", LOCO_LEDGER=ledger).stdout
