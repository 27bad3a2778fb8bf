"""`loco-otel dashboards`: files from the installed wheel, and Grafana's HTTP API as a stub records it."""

import json
import os
import re
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from loco_otel.cli.dashboards import RUNBOOKS
from loco_otel.cli.main import main

ROOT = Path(__file__).parents[2]
TITLES = ["loco-otel / Agent", "loco-otel / Overview", "loco-otel / Scheduling", "loco-otel / Spend and budgets"]


class _Grafana(ThreadingHTTPServer):
    """Records requests, and answers as Grafana does to a dashboard that it stores."""

    block_on_close = False  # a client keeps its connection

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.requests: list[tuple[str, str | None, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: _Grafana
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers["Authorization"], body))
        answer = {"url": f"/d/{body['dashboard']['uid']}", "message": "no permission"}
        content = json.dumps(answer).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def grafana() -> Iterator[_Grafana]:
    with _Grafana() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _push(*arguments: str, token: str | None = "glsa_secret") -> Result:
    return CliRunner().invoke(main, ["dashboards", "push", *arguments], env={"GRAFANA_TOKEN": token})


def test_push_sends_each_dashboard_with_the_token(grafana: _Grafana) -> None:
    done = _push("--url", grafana.url, "--folder", "llm")
    assert (done.exit_code, done.output.splitlines()) == (
        0,
        [f"{it}: {grafana.url}/d/loco-{it.split('/ ')[1].split()[0].lower()}" for it in TITLES],
    )
    assert {(path, token) for path, token, _ in grafana.requests} == {("/api/dashboards/db", "Bearer glsa_secret")}
    sent = [body for _, _, body in grafana.requests]
    assert [body["dashboard"]["title"] for body in sent] == TITLES
    assert all(body["overwrite"] and body["folderUid"] == "llm" for body in sent)
    assert sent[1]["dashboard"] == json.loads((ROOT / "dashboards/loco-overview.json").read_text())


def test_push_refused_by_grafana_names_the_dashboard(grafana: _Grafana) -> None:
    grafana.status = 403
    done = _push("--url", grafana.url)
    assert done.exit_code == 1
    assert "does not accept loco-otel / Agent" in done.output
    assert "no permission" in done.output
    assert len(grafana.requests) == 1


def test_push_to_nothing_is_an_error_without_traceback() -> None:
    done = _push("--url", "http://127.0.0.1:9")
    assert done.exit_code == 1
    assert done.output.startswith("Error: Grafana at http://127.0.0.1:9")


def test_push_without_token_names_the_variable() -> None:
    done = _push("--url", "http://127.0.0.1:9", token=None)
    assert done.exit_code == 2
    assert "GRAFANA_TOKEN" in done.output


def test_push_without_client_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grafana_client.api", None)
    done = _push("--url", "http://127.0.0.1:9")
    assert done.exit_code == 1
    assert "loco-otel[grafana]" in done.output


def test_export_to_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    done = CliRunner().invoke(main, ["dashboards", "export", str(tmp_path / "taken" / "below")])
    assert done.exit_code == 1
    assert "cannot write to" in done.output


def test_export_links_alerts_to_own_runbooks(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["dashboards", "export", str(tmp_path), "--runbooks", "https://wiki.test/loco/"])
    assert done.exit_code == 0, done.output
    rules = (tmp_path / "alerts/loco.rules.yml").read_text()
    assert "runbook_url: https://wiki.test/loco/LocoSaturated.md" in rules
    assert RUNBOOKS not in rules


def test_each_alert_links_to_a_runbook_that_compose_serves(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["dashboards", "export", str(tmp_path)]).exit_code == 0
    links = re.findall(r"runbook_url: (.+)", (tmp_path / "alerts/loco.rules.yml").read_text())
    assert links
    grafana = yaml.safe_load((tmp_path / "compose.yaml").read_text())["services"]["grafana"]
    assert any(f"http://localhost:{it.split(':')[1]}/public/runbooks" == RUNBOOKS for it in grafana["ports"])
    (source,) = [it.split(":")[0] for it in grafana["volumes"] if it.split(":")[1].endswith("/public/runbooks")]
    for link in links:
        assert (tmp_path / source / link.removeprefix(f"{RUNBOOKS}/")).is_file(), link


def test_d26_source_distribution_has_the_dashboards(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(build, check=True, cwd=ROOT, capture_output=True)
    (file,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"dashboards/loco-overview.json", "dashboards/alerts/loco.rules.yml"} <= names


def test_d26_export_from_the_wheel_writes_the_files(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, check=True, cwd=ROOT, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [
            name for name in archive.namelist() if name.startswith("dashboards/") or "dashboards/builder" in name
        ]
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        # The seed's README named an exporter that no module had.
        assert "\nRequires-Dist: opentelemetry-exporter-otlp" in archive.read(metadata).decode()
        archive.extractall(tmp_path / "site")
    assert (tmp_path / "site/loco_otel/cli/report/page.html").is_file()
    command = "from loco_otel.cli.main import main; main(['dashboards', 'export', 'out'])"
    done = subprocess.run(
        [sys.executable, "-c", command],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {f"out/{name}" for name in names} == set(done.stdout.split())
    assert {f"loco-{name}.json" for name in ("overview", "scheduling", "spend", "agent")} <= names
    assert {"alerts/loco.rules.yml", "provisioning/prometheus/prometheus.yml", "compose.yaml"} <= names
    assert "runbooks/LocoSaturated.md" in names
    for name in names:
        folder = "docs" if name.startswith("runbooks/") else "dashboards"
        assert (tmp_path / "out" / name).read_text() == (ROOT / folder / name).read_text()
