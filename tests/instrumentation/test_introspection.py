"""`loco_otel.dump()` and `loco-otel ps`: the same of a busy program, from inside and from outside."""

import http.server
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import Context
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from patience import PATIENCE
from sdk_calls import CHAT
from sdk_program import environ, script
from sdk_scheduling import Scheduled
from sdk_server import LlmServer, free_port

import loco_otel
from loco_otel.cli.main import main
from loco_otel.cli.metrics_page import get_default_url
from loco_otel.events import Waiting

PAGE = (Path(__file__).parents[2] / "docs" / "introspection.md").read_text()

BUSY = """
import json, sys, threading
import loco_otel

ready = threading.Barrier(4)

def hold(agent, weight):
    ready.wait()
    with loco_otel.slot(agent, weight=weight):
        done.wait()

done = threading.Event()
threads = [
    threading.Thread(target=hold, args=who, daemon=True)
    for who in (("writer", 3), ("critic", 1), ("writer", 2), ("writer", 2))
]
with loco_otel.slot("editor", weight=2):
    for thread in threads:
        thread.start()
    while loco_otel.snapshot().resources[0].waiting < 3:
        done.wait(0.01)
    print(json.dumps(loco_otel.dump().as_dict()), flush=True)
    sys.stdin.read()
    done.set()
for thread in threads:
    thread.join()
"""


def ps(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["ps", *arguments])


def test_busy_program_is_shown_from_inside_and_outside(server: LlmServer, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "busy.py").write_text(BUSY)
    program = subprocess.Popen(
        [script("opentelemetry-instrument"), sys.executable, tmp_path / "busy.py"],
        env={
            **environ(server),
            "LOCO_CAPACITY": "2",
            "OTEL_METRICS_EXPORTER": "prometheus",
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert program.stdout is not None
        (inside,) = json.loads(program.stdout.readline())["resources"]
        url = f"http://localhost:{port}/metrics"
        told = ps("--url", url, "--json")
        assert told.exit_code == 0, told.output
        (outside,) = json.loads(told.output)["resources"]
        assert (outside["resource"], outside["capacity"], outside["holding"], outside["waiting"]) == (
            "llm_api",
            2,
            2,
            3,
        )
        seen = {
            agent["agent"]: (
                agent["active"],
                agent["waiting"],
                agent["queue_weight"],
                agent["queue_age"],
                agent["rank"],
            )
            for agent in inside["agents"]
        }
        assert seen == {
            agent["agent"]: (agent["holding"], agent["waiting"], agent["q"], agent["d"], agent["rank"])
            for agent in outside["agents"]
        }
        table = ps("--url", url).output
        assert table.startswith("llm_api: 2 hold, 3 wait, 2 at a time, alpha 0.25, tick 0\n")
        assert re.search(r"^ +1  writer ", table, re.MULTILINE)
    finally:
        program.communicate("", timeout=PATIENCE)


def test_dump_equals_the_page(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    with server.openai() as client, ThreadPoolExecutor(1) as pool:
        with loco_otel.slot("analyst", weight=2):
            # Of another caller, which is unrelated to the slot.
            call = Context().run(pool.submit, client.chat.completions.create, **CHAT)
            scheduling.seen.wait_for(Waiting)
            text = str(loco_otel.dump())
            told = loco_otel.dump(tickets=1).as_dict()
        call.result(PATIENCE)
    (shown,) = re.findall(r"^```text\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert alike(text) == alike(shown)
    (resource,) = told["resources"]
    assert json.loads(json.dumps(resource)) == resource
    assert ([ticket["state"] for ticket in resource["tickets"]], resource["left_out"]) == (["holding"], 1)


def alike(text: str) -> str:
    """Leave out what differs from run to run: ids, seconds, widths."""
    text = re.sub(r"[0-9a-f]{12}-\d+", "ID", text)
    return re.sub(r" +", " ", re.sub(r"\d+\.\d+ s", "N s", text)).strip()


def test_negative_limit_is_rejected() -> None:
    with pytest.raises(ValueError, match="tickets must be at least 0, not -1"):
        loco_otel.dump(tickets=-1)


@contextmanager
def serving(body: bytes) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>", "is no page of Prometheus"),
        (b"# HELP x y\n# TYPE x counter\nx_total 1\n", "has no metrics of loco-otel: is it installed there"),
        (b"\xff\xfe", "does not answer"),
    ],
)
def test_unknown_page_is_reported(body: bytes, said: str) -> None:
    with serving(body) as url:
        done = ps("--url", url)
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert said in done.output
    assert url in done.output


PAUSED = b"""# HELP loco_gate_closed_seconds pause
# TYPE loco_gate_closed_seconds gauge
loco_gate_closed_seconds{loco_resource_name="openai/api.openai.com",loco_gate_cause="backoff",\
loco_gate_header="retry-after"} 41.25
# HELP loco_scheduler_ticks_total ticks
# TYPE loco_scheduler_ticks_total counter
loco_scheduler_ticks_total{loco_resource_name="openai/api.openai.com"} 3
"""


def test_pause_of_a_provider_is_shown_with_its_header() -> None:
    with serving(PAUSED) as url:
        table, document = ps("--url", url).output, json.loads(ps("--url", url, "--json").output)
    assert "paused for another 41.2 s: the provider asks for it, by its header retry-after\n" in table
    (resource,) = document["resources"]
    assert (resource["pause"], resource["pause_header"]) == (41.25, "retry-after")


def test_server_without_http_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(b"\x00\x00\x12\x04garbage\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        done = ps("--url", f"http://127.0.0.1:{listening.getsockname()[1]}/metrics")
        thread.join()
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert "does not answer" in done.output


def test_proxy_is_not_used_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    with serving(
        b'# TYPE loco_scheduler_ticks counter\nloco_scheduler_ticks_total{loco_resource_name="llm"} 3\n'
    ) as url:
        assert ps("--url", url).output.startswith("llm: 0 hold")
        assert ps("--url", url.replace("127.0.0.1", "localhost")).output.startswith("llm: 0 hold")


@pytest.mark.parametrize(
    ("host", "url"),
    [("", "http://localhost:9/metrics"), ("::1", "http://[::1]:9/metrics"), ("10.0.0.1", "http://10.0.0.1:9/metrics")],
)
def test_page_is_found_where_the_exporter_serves_it(host: str, url: str) -> None:
    assert get_default_url({"OTEL_EXPORTER_PROMETHEUS_HOST": host, "OTEL_EXPORTER_PROMETHEUS_PORT": "9"}) == url


def test_missing_server_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", str(port))
    done = ps()
    assert done.exit_code == 1
    assert done.output.startswith(f"Error: http://localhost:{port}/metrics does not answer: ")
    assert "begins with http" in ps("--url", "localhost:9464").output
