"""Other instrumentors: those that work, that do not, and that are in the way."""

import json
from pathlib import Path
from typing import Any

from doctor_process import Doctor
from fake_distributions import hide, put_instrumentor

WRAP = """
import wrapt
from openai.resources.chat.completions import Completions
print("hello from the vendor")
wrapt.wrap_function_wrapper(Completions, "create", around)
"""
AROUND = "\n\ndef around(call, instance, args, kwargs):\n    return call(*args, **kwargs)\n"
CREATE = "openai.resources.chat.completions.completions.Completions.create"


def put_vendor(directory: Path) -> None:
    put_instrumentor(directory, "vendor-openai", WRAP)
    with (directory / "vendor_openai.py").open("a") as file:
        file.write(AROUND)


def sdk_of(output: str, name: str) -> dict[str, Any]:
    (found,) = [sdk for sdk in json.loads(output)["sdks"] if sdk["sdk"] == name]
    return found


def test_working_instrumentor_makes_the_span(doctor: Doctor, tmp_path: Path) -> None:
    hide(tmp_path, "anthropic")
    put_vendor(tmp_path)
    done = doctor("--json", LOCO_CAPACITY="4")
    assert done.returncode == 0
    assert done.stderr == "hello from the vendor\n"
    sdk = sdk_of(done.stdout, "openai")
    assert sdk["instrumentors"] == [
        {
            "name": "openai",
            "module": "vendor_openai",
            "distribution": "vendor-openai",
            "version": "7.0",
            "fault": "",
        }
    ]
    assert sdk["wrapped"] == [{"method": CREATE, "by": ["vendor_openai"]}]
    assert sdk["inference_span"] == ["vendor_openai"]
    assert all(hook["in_place"] for hook in sdk["hooks"])


def test_idle_instrumentors_are_named_with_the_reason(doctor: Doctor, tmp_path: Path) -> None:
    hide(tmp_path, "anthropic")
    put_instrumentor(tmp_path, "opentelemetry-instrumentation-openai-v2", "import httpx_that_is_not_there")
    put_instrumentor(tmp_path, "broken", "raise RuntimeError('no licence')")
    put_instrumentor(tmp_path, "outdated", "raise AssertionError", requires="openai < 1")
    done = doctor("--json", LOCO_CAPACITY="4")
    assert done.returncode == 0
    sdk = sdk_of(done.stdout, "openai")
    faults = {other["distribution"]: other["fault"] for other in sdk["instrumentors"]}
    assert faults.keys() == {"opentelemetry-instrumentation-openai-v2", "broken", "outdated"}
    stale = faults["opentelemetry-instrumentation-openai-v2"]
    assert stale.startswith("silently left out: ModuleNotFoundError: No module named 'httpx_that_is_not_there'")
    assert stale.endswith("opentelemetry-instrumentation-genai-openai takes its place")
    assert faults["broken"] == "fails, and stops the instrumentors after it: RuntimeError: no licence"
    assert faults["outdated"].startswith("left out: ")
    assert "openai < 1" in faults["outdated"] or "openai<1" in faults["outdated"]
    assert sdk["inference_span"] == ["loco_otel"]
    warnings = json.loads(done.stdout)["warnings"]
    assert all(any(name in warning and fault in warning for warning in warnings) for name, fault in faults.items())


def test_disabled_instrumentor_is_not_loaded(doctor: Doctor, tmp_path: Path) -> None:
    hide(tmp_path, "anthropic")
    put_vendor(tmp_path)
    done = doctor("--json", LOCO_CAPACITY="4", OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="flask,openai")
    assert (done.returncode, done.stderr) == (0, "")
    sdk = sdk_of(done.stdout, "openai")
    assert [other["fault"] for other in sdk["instrumentors"]] == ["disabled by OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"]
    assert (sdk["wrapped"], sdk["inference_span"]) == ([], ["loco_otel"])


def test_instrumentor_that_removes_our_hook_is_reported(doctor: Doctor, tmp_path: Path) -> None:
    hide(tmp_path, "anthropic")
    put_instrumentor(tmp_path, "thief", "")
    (tmp_path / "thief.py").write_text("""
import inspect

class Instrumentor:
    def instrument(self, **_):
        from openai._base_client import SyncAPIClient
        SyncAPIClient.request = inspect.unwrap(SyncAPIClient.request)
""")
    done = doctor("--json", LOCO_CAPACITY="4")
    assert done.returncode == 1
    sdk = sdk_of(done.stdout, "openai")
    method = "openai._base_client.SyncAPIClient.request"
    assert [hook["method"] for hook in sdk["hooks"] if not hook["in_place"]] == [method]
    assert sdk["fault"] == f"not patched: {method}"
    assert not sdk["patched"]


def test_anthropic_makes_its_span_unless_disabled(doctor: Doctor, tmp_path: Path) -> None:
    hide(tmp_path, "openai")
    put_instrumentor(tmp_path, "vendor-anthropic", WRAP_ANTHROPIC, sdk="anthropic")
    with (tmp_path / "vendor_anthropic.py").open("a") as file:
        file.write(AROUND)
    done = doctor("--json", LOCO_CAPACITY="4")
    assert sdk_of(done.stdout, "anthropic")["inference_span"] == ["vendor_anthropic", "anthropic"]
    warnings = " ".join(json.loads(done.stdout)["warnings"])
    assert "2 inference spans, by vendor_anthropic and anthropic: tokens count twice" in warnings
    assert "ANTHROPIC_OPEN_TELEMETRY=false" in warnings
    without = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "anthropic", "LOCO_CAPACITY": "4"}
    done = doctor("--json", **without)
    assert sdk_of(done.stdout, "anthropic")["inference_span"] == ["anthropic"]
    done = doctor("--json", ANTHROPIC_OPEN_TELEMETRY="False", **without)
    assert sdk_of(done.stdout, "anthropic")["inference_span"] == ["loco_otel"]
    assert json.loads(done.stdout)["warnings"][0].startswith("vendor-anthropic 7.0 does nothing for anthropic")


WRAP_ANTHROPIC = """
import wrapt
from anthropic.resources.messages import Messages
wrapt.wrap_function_wrapper(Messages, "create", around)
"""


def test_text_names_the_instrumentors(doctor: Doctor, tmp_path: Path) -> None:
    hide(tmp_path, "anthropic")
    put_vendor(tmp_path)
    done = doctor(LOCO_CAPACITY="4")
    assert done.returncode == 0
    assert "    also here: vendor-openai 7.0 (works)\n" in done.stdout
    assert f"    {CREATE}: wrapped by vendor_openai\n" in done.stdout
    assert "    inference span by vendor_openai\n" in done.stdout
