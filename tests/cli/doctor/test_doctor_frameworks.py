"""The readers of agent frameworks, as the doctor shows them: those that work, that fail, and that are disabled."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from doctor_process import Doctor
from fake_distributions import ALL_SDKS, hide, put

from loco_otel._runtime import agent_readers
from loco_otel.cli.doctor.frameworks import examine_frameworks
from loco_otel.cli.doctor.report import AgentFramework

READER = """
from loco_otel.patching import PartialIdentity

class Reader:
    name = "fake_reader"
    rank = 1

    def list_targets(self):
        return ()

    def read_identity(self):
        {statement}
"""
QUIET = {"LOCO_CAPACITY": "4", "ANTHROPIC_OPEN_TELEMETRY": "false"}


def put_framework(directory: Path, statement: str) -> None:
    """Install a framework whose reader executes a statement, and no other framework or SDK."""
    frameworks = (
        "agent_framework",
        "agents",
        "autogen_agentchat",
        "autogen_core",
        "langchain_core",
        "langgraph",
        "pydantic_ai",
    )
    hide(directory, *frameworks, *ALL_SDKS)
    put(directory, "fake-reader", "1.0")
    entry = "[loco_otel_agent_identity]\nfake_framework.core = fake_reader:Reader\n"
    (directory / "fake-reader-1.0.dist-info" / "entry_points.txt").write_text(entry)
    (directory / "fake_reader.py").write_text(READER.format(statement=statement))
    (directory / "fake_framework").mkdir()
    for name in ("__init__", "core"):
        (directory / "fake_framework" / f"{name}.py").touch()


def examine(doctor: Doctor, *options: str, **variables: str) -> tuple[dict[str, Any], str]:
    """Return the only framework of a report, and its warnings."""
    report = json.loads(doctor("--json", *options, **QUIET, **variables).stdout)
    (framework,) = report["frameworks"]
    return framework, " ".join(report["warnings"])


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("raise RuntimeError('no\\ncontext')", "RuntimeError: no context"),
        ("return 'nonsense'", "TypeError: an identity must be a PartialIdentity, not str"),
        ("return PartialIdentity(agent=7)", "TypeError: agent must be a string, not int"),
        ("return None", ""),
    ],
)
def test_import_tests_each_reader(doctor: Doctor, tmp_path: Path, statement: str, fault: str) -> None:
    put_framework(tmp_path, statement)
    framework, warnings = examine(doctor, "--import")
    assert framework == {
        "framework": "fake_reader",
        "module": "fake_framework.core",
        "tested": True,
        "fault": fault,
    }
    assert (f"no agent is read from fake_reader ({fault})" in warnings) == bool(fault)


def test_a_reader_is_not_loaded_without_import(doctor: Doctor, tmp_path: Path) -> None:
    put_framework(tmp_path, "raise RuntimeError")
    framework, warnings = examine(doctor)
    assert (framework["tested"], framework["fault"]) == (False, "")
    assert "fake_reader" not in warnings
    disabled = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "loco_fake_reader"}
    framework, _ = examine(doctor, "--import", **disabled)
    assert (framework["tested"], framework["fault"]) == (
        False,
        "disabled by OTEL_PYTHON_DISABLED_INSTRUMENTATIONS",
    )


def test_a_fault_of_this_process_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "langchain_core.runnables.config"
    monkeypatch.setitem(sys.modules, module, ModuleType(module))
    monkeypatch.setattr(agent_readers, "faults", {"langgraph": "KeyError: 'metadata'"})
    found = examine_frameworks(None, imports=False)
    assert AgentFramework("langgraph", module, tested=True, fault="KeyError: 'metadata'") in found
