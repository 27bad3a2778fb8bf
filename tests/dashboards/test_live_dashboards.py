"""Real SDKs against a real server, scraped by a real Prometheus: every panel has data, and an alert arrives."""

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from dashboard_files import (
    DASHBOARDS,
    FOLDER,
    PanelQuery,
    expand_to_all,
    expand_variables,
    list_queries,
    list_selectors,
    list_variables,
)
from dashboard_prometheus import Prometheus
from dashboard_workload import Workload, start_server
from sdk_program import Running
from sdk_server import free_port

from dashboards.builder.metrics import CATALOGUE

WINDOWS = {"__rate_interval": "10s", "__interval": "1s", "__range": "2m"}
"""Grafana's own variables, as they are for a scrape each second."""

_NO_HEADERS = "the server sends no headers with rate limits"
_NO_FORK = "no process forks"
STATES: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]] = {
    "fixed": (
        {"LOCO_CAPACITY": "2"},
        {
            "loco.ratelimit.limit": _NO_HEADERS,
            "loco.ratelimit.remaining": _NO_HEADERS,
            "loco.children": _NO_FORK,
            "loco.gate.closed": "a pause may fall between two scrapes",
        },
    ),
    "auto": (
        {"LOCO_CAPACITY": "auto", "LOCO_CAPACITY_MAX": "1"},
        {
            "loco.ratelimit.limit": _NO_HEADERS,
            "loco.ratelimit.remaining": _NO_HEADERS,
            "loco.children": _NO_FORK,
            "loco.gate.closed": "a pause may fall between two scrapes",
            "loco.fairness.index": "two agents may not wait throughout",
        },
    ),
}
"""Settings by state, and the metrics that the workload has no data for in that state, each with the reason."""


class Live(NamedTuple):
    """A workload under way, the Prometheus that scrapes it, and the queries that need no data."""

    prometheus: Prometheus
    workload: Workload
    lacking: Mapping[str, str]


class _Webhook(ThreadingHTTPServer):
    """Keeps the bodies of requests."""

    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _WebhookHandler)
        self.bodies: list[Any] = []


class _WebhookHandler(BaseHTTPRequestHandler):
    server: _Webhook

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def webhook() -> Iterator[_Webhook]:
    with _Webhook() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module", params=STATES)
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, webhook: _Webhook) -> Iterator[Live]:
    folder: Path = tmp_path_factory.mktemp("live")
    settings, lacking = STATES[request.param]
    with start_server(folder) as server, _start_alertmanager(folder, webhook.server_port) as alertmanager:
        workload = Workload(server, folder, settings)
        try:
            with Prometheus(
                folder,
                {"app": workload.ports},
                rules=[FOLDER / "alerts" / "loco.rules.yml"],
                alertmanager=alertmanager.port,
            ) as prometheus:
                yield Live(prometheus, workload, lacking)
        finally:
            workload.stop()


class _Alertmanager(Running):
    def __init__(self, folder: Path, config: Path) -> None:
        self.port = free_port()
        super().__init__(
            [
                "prometheus-alertmanager",
                f"--config.file={config}",
                f"--storage.path={folder / 'alerts'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--cluster.listen-address=",
            ],
            folder,
        )


def _start_alertmanager(folder: Path, webhook_port: int) -> _Alertmanager:
    """Start one with the configuration that we ship, but the webhook's address and the time until it is called."""
    config = yaml.safe_load((FOLDER / "provisioning" / "alertmanager" / "alertmanager.yml").read_text())
    config["route"]["group_wait"] = "1s"
    config["receivers"][0]["webhook_configs"][0]["url"] = f"http://127.0.0.1:{webhook_port}/"
    file = folder / "alertmanager.yml"
    file.write_text(yaml.safe_dump(config))
    return _Alertmanager(folder, file)


def _find_lacking(dashboard: str, expr: str, lacking: Mapping[str, str]) -> list[str]:
    """Return why an expression may have no data: metrics that lack their state."""
    names = {row.prometheus_name: name for name, row in CATALOGUE.items()}
    series = {it.name for it in list_selectors(expand_to_all(dashboard, expr)) if it.name}
    used = {names[it] for name in series if (it := re.sub(r"_(bucket|count|sum)$", "", name)) in names}
    return [f"{name}: {lacking[name]}" for name in used & set(lacking)]


def _returns_data(live: Live, query: PanelQuery, values: Mapping[str, str]) -> bool:
    expr, now = expand_variables(query.expr, {**values, **WINDOWS}), time.time()
    if query.target["instant"]:
        return bool(live.prometheus.query(expr))
    return bool(live.prometheus.query_range(expr, now - 60, now, 1))


def _list_choices(live: Live, dashboard: str, variable: str) -> list[str]:
    query = list_variables(dashboard)[variable]["query"]["query"]
    found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
    assert found
    now = time.time()
    return live.prometheus.list_label_values(found[2], expand_to_all(dashboard, found[1]), now - 60, now + 1)


def test_every_query_returns_data_of_the_workload(live: Live) -> None:
    needed = [it for it in list_queries() if not _find_lacking(it.dashboard, it.expr, live.lacking)]
    assert len(needed) > 50
    pending = {it.name: it for it in needed}

    def is_complete() -> bool:
        live.workload.check()
        for name, query in list(pending.items()):
            if _returns_data(live, query, dict.fromkeys(list_variables(query.dashboard), ".+")):
                del pending[name]
        return not pending

    deadline = time.monotonic() + 90
    while not is_complete():
        assert time.monotonic() < deadline, sorted(pending)

    for dashboard in DASHBOARDS:
        choices = {variable: _list_choices(live, dashboard, variable) for variable in list_variables(dashboard)}
        assert all(choices.values()), choices
        everything = dict.fromkeys(choices, ".+")
        for query in (it for it in needed if it.dashboard == dashboard):
            for variable, values in choices.items():
                if f"${variable}" not in query.expr:
                    continue
                many = "(" + "|".join(re.escape(value).replace("\\", "\\\\") for value in values) + ")"
                assert _returns_data(live, query, {**everything, variable: many}), (query.name, variable, many)
                one = (_returns_data(live, query, {**everything, variable: value}) for value in values)
                assert any(one), (query.name, variable, values)


def test_alert_goes_from_the_workload_to_a_webhook(live: Live, webhook: _Webhook) -> None:
    def find_alert() -> Any:
        alerts = [alert for body in list(webhook.bodies) for alert in body["alerts"]]
        return next((it for it in alerts if it["labels"]["alertname"] == "LocoCallsUnpriced"), None)

    live.prometheus.until(lambda: find_alert() is not None)
    alert = find_alert()
    assert alert["status"] == "firing"
    assert alert["labels"]["severity"] == "warning"
    assert alert["annotations"]["summary"] == "claude-harbour of anthropic has no known price"
    assert alert["annotations"]["runbook_url"].endswith("/LocoCallsUnpriced.md")


def test_annotations_show_alerts_and_budgets(live: Live) -> None:
    for dashboard, board in DASHBOARDS.items():
        for annotation in board["annotations"]["list"]:
            if _find_lacking(dashboard, annotation["expr"], live.lacking):
                continue
            expr = expand_to_all(dashboard, annotation["expr"])
            live.prometheus.until(lambda expr=expr: bool(live.prometheus.query(expr)))
