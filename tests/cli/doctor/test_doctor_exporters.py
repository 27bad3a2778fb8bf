"""Where telemetry goes: ports that are open, shut, free and taken, and what the launcher makes of them."""

import errno
import json
import os
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from doctor_process import Doctor
from fake_distributions import ALL_SDKS, hide
from patience import PATIENCE

from loco_otel.cli.doctor.exporters import probe_exporters
from loco_otel.cli.doctor.report import Exporter

QUIET = {"OTEL_METRICS_EXPORTER": "none"}


@pytest.fixture
def listening() -> Iterator[int]:
    """Return a port on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def shut() -> Iterator[int]:
    """Return a port that is bound, so that nobody else gets it, and on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def free() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def traces(**environ: str) -> Exporter:
    (found,) = [way for way in probe_exporters({**QUIET, **environ}) if way.signal == "traces"]
    return found


def metrics(**environ: str) -> Exporter:
    (found,) = [way for way in probe_exporters(environ) if way.signal == "metrics"]
    return found


@pytest.mark.parametrize(("protocol", "exporter"), [("grpc", "otlp_proto_grpc"), ("http/protobuf", "otlp_proto_http")])
def test_reachable_endpoint_passes(protocol: str, exporter: str, listening: int) -> None:
    endpoint = f"http://user:planted-secret@127.0.0.1:{listening}/planted/path?key=planted"
    found = traces(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
    assert found == Exporter("traces", exporter, f"127.0.0.1:{listening}", True, "reachable")
    assert "planted" not in repr(found)


def test_unreachable_endpoint_fails(shut: int) -> None:
    found = traces(OTEL_EXPORTER_OTLP_ENDPOINT=f"127.0.0.1:{shut}")
    assert (found.exporter, found.address, found.works) == ("otlp_proto_grpc", f"127.0.0.1:{shut}", False)
    assert found.finding == f"not reachable: {os.strerror(errno.ECONNREFUSED)}"
    assert not found.stops_launcher


def test_variables_of_a_signal_take_precedence(listening: int, shut: int) -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{shut}",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"http://127.0.0.1:{listening}/v1/metrics",
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf",
    }
    assert [(way.signal, way.exporter, way.works) for way in probe_exporters(environ)] == [
        ("traces", "otlp_proto_grpc", False),
        ("metrics", "otlp_proto_http", True),
    ]


def test_endpoint_behind_a_proxy_is_undecided(shut: int) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{shut}", "http_proxy": "http://p:1"}
    assert traces(**environ).works is None
    assert traces(**environ, no_proxy="127.0.0.1").works is False


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [("https://[::1", None), ("unix:///run/otel.sock", None), ("http://localhost:99999", None)],
)
def test_unusual_endpoints_are_checked(endpoint: str, address: str | None) -> None:
    found = traces(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    assert (found.address, found.works) == (address, None)


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_EXPORTER": "jaeger"},
        {"OTEL_TRACES_EXPORTER": "prometheus"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
    ],
)
def test_choices_that_stop_the_launcher_are_reported(environ: dict[str, str]) -> None:
    found = traces(**environ)
    assert (found.works, found.stops_launcher) == (False, True)


def test_several_exporters_or_none_are_reported(listening: int) -> None:
    environ = {"OTEL_TRACES_EXPORTER": "console, otlp", "OTEL_METRICS_EXPORTER": " None ", "OTEL_LOGS_EXPORTER": "nix"}
    ways = probe_exporters({**environ, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{listening}"})
    assert [(way.signal, way.exporter, way.works, way.stops_launcher) for way in ways] == [
        ("traces", "console", None, False),
        ("traces", "otlp_proto_grpc", True, False),
        ("metrics", "none", None, False),
        ("logs", "nix", False, True),
    ]


def test_prometheus_exporter_is_checked(free: int, listening: int) -> None:
    environ = {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1"}
    found = metrics(**environ, OTEL_EXPORTER_PROMETHEUS_PORT=str(free))
    assert found == Exporter("metrics", "prometheus", f"127.0.0.1:{free}", True, "the port is free")
    found = metrics(**environ, OTEL_EXPORTER_PROMETHEUS_PORT=str(listening))
    assert (found.finding, found.stops_launcher) == ("the port is taken", True)
    for port in ("", "70000", "metrics"):
        found = metrics(**environ, OTEL_EXPORTER_PROMETHEUS_PORT=port)
        assert (found.works, found.stops_launcher) == (False, True), port


def test_configuration_file_is_reported(tmp_path: Path) -> None:
    (found,) = probe_exporters({"OTEL_CONFIG_FILE": str(tmp_path / "otel.yaml"), "OTEL_METRICS_EXPORTER": "prometheus"})
    assert (found.signal, found.exporter, found.stops_launcher) == ("all", "file", True)


def launched(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    launcher = Path(sysconfig.get_path("scripts"), "opentelemetry-instrument")
    return subprocess.run(
        [launcher, *command],
        check=False,
        env={**os.environ, "OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none", **environ},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


PATCHED = """
import openai
from loco_otel_instrumentation.openai import OpenAIInstrumentor
print(len(OpenAIInstrumentor.list_patched()) > 0)
"""


def test_taken_prometheus_port_is_reported(doctor: Doctor, tmp_path: Path, listening: int) -> None:
    hide(tmp_path, "anthropic")
    environ = {
        "LOCO_CAPACITY": "4",
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(listening),
    }
    done = doctor(**environ)
    assert (done.returncode, done.stderr) == (1, "")
    verdict = done.stdout.splitlines()[-1]
    assert f"(prometheus at 127.0.0.1:{listening}) cannot start, the port is taken" in verdict
    assert "nothing is patched" in verdict
    done = launched(sys.executable, "-c", PATCHED, **environ)
    assert (done.returncode, done.stdout) == (0, "False\n")


def test_own_prometheus_port_under_the_launcher_passes(free: int) -> None:
    environ = {
        "LOCO_CAPACITY": "4",
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(free),
    }
    done = launched(sys.executable, "-m", "loco_otel.cli", "doctor", "--json", **environ)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["well"]
    assert [way["finding"] for way in report["exporters"]] == ["no traces leave the process", "served by this process"]
    assert all(hook["in_place"] for sdk in report["sdks"] for hook in sdk["hooks"])


def test_disabled_sdk_shows_no_secrets(doctor: Doctor, tmp_path: Path, listening: int) -> None:
    hide(tmp_path, *ALL_SDKS)
    done = doctor(
        "--json",
        OTEL_SDK_DISABLED="True",
        OTEL_TRACES_EXPORTER="otlp",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://planted:planted@127.0.0.1:{listening}/planted",
        OTEL_EXPORTER_OTLP_HEADERS="authorization=planted",
    )
    assert "planted" not in done.stdout + done.stderr
    assert "OTEL_SDK_DISABLED is true: calls are scheduled, and nothing is told of them" in done.stdout
    assert json.loads(done.stdout)["exporters"][0]["works"] is True
