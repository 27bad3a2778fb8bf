"""Real SDKs against a real server, scraped by a real Prometheus: every panel has data, and an alert arrives."""

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
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
from patience import PATIENCE
from redis_server import RedisServer
from sdk_program import Running
from sdk_server import free_port

from dashboards.builder.metrics import CATALOGUE

WINDOWS = {"__rate_interval": "10s", "__interval": "1s", "__range": "2m"}
"""Grafana's own variables, as they are for a scrape each second."""

_PROGRAMS = [name for name in ("prometheus", "prometheus-3") if shutil.which(name)]
"""Debian's Prometheus, and the newest that Debian has, where `.ci/run` has installed it."""

_HEADERS = dict.fromkeys(
    ("loco.ratelimit.limit", "loco.ratelimit.remaining"), "the server sends no headers with rate limits"
)
_RUNS = dict.fromkeys(
    ("loco.run.duration", "loco.run.wait", "loco.run.slowdown", "loco.runs.active", "loco.limit.decisions"),
    "the workload has no runs and no limits of runs",
)
_ENGINE = dict.fromkeys(
    (
        "loco.engine.mode",
        "loco.engine.processes",
        "loco.engine.overbooked",
        "loco.engine.duration",
        "loco.engine.errors",
    ),
    "each process has an engine of its own",
)
_UNLIMITED = dict.fromkeys(
    (
        "loco.resource.capacity",
        "loco.resource.saturation",
        "loco.limit.reference",
        "loco.capacity.time",
        "loco.load.score",
        "loco.fairness.index",
    ),
    "nothing is limited before a refusal, so nothing waits",
)


class State(NamedTuple):
    """Settings of the workload, and what it has no data for, each with the reason."""

    settings: Mapping[str, str]
    refuses: bool
    metrics: Mapping[str, str]
    panels: Mapping[str, str] = {}
    is_shared: bool = False
    """Whether the processes share an engine."""


STATES = {
    "before a refusal": State(
        {"LOCO_CAPACITY": "auto"},
        refuses=False,
        metrics={
            **_HEADERS,
            **_RUNS,
            **_ENGINE,
            **_UNLIMITED,
            "loco.children": "no process forks",
            "loco.gate.closed": "no provider asks for a pause",
        },
        panels=dict.fromkeys(
            (
                "loco-agent: Made others wait in this range A",
                "loco-scheduling: Requests without a slot A",
                "loco-scheduling: Seconds that an agent (row) waited for another (column) A",
                "loco-scheduling: Seconds that others waited for an agent A",
            ),
            "nothing waits",
        ),
    ),
    "auto": State(
        {"LOCO_CAPACITY": "auto", "LOCO_CAPACITY_MAX": "1", "HASTY": "1"},
        refuses=True,
        metrics={
            **_HEADERS,
            **_RUNS,
            **_ENGINE,
            "loco.children": "no process forks",
            "loco.gate.closed": "a pause may fall between two scrapes",
            "loco.fairness.index": "two agents may not wait throughout",
        },
    ),
    "fixed": State(
        {"LOCO_CAPACITY": "2", "HASTY": "1"},
        refuses=True,
        metrics={
            **_HEADERS,
            **_RUNS,
            **_ENGINE,
            "loco.children": "no process forks",
            "loco.gate.closed": "a pause may fall between two scrapes",
            "loco.fairness.index": "two agents may not wait throughout",
        },
    ),
    "shared": State(
        {"LOCO_CAPACITY": "2", "HASTY": "1"},
        refuses=True,
        is_shared=True,
        metrics={
            **_HEADERS,
            **_RUNS,
            "loco.engine.errors": "the server of the engine is well",
            "loco.children": "no process forks",
            "loco.gate.closed": "a pause may fall between two scrapes",
            "loco.fairness.index": "two agents may not wait throughout",
        },
    ),
}


class Live(NamedTuple):
    """A workload under way, and those that scrape it: each Prometheus."""

    servers: Sequence[Prometheus]
    workload: Workload
    state: State


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
    state = STATES[request.param]
    webhook.bodies.clear()
    with ExitStack() as stack:
        server = stack.enter_context(start_server(folder, refuses=state.refuses))
        alertmanager = stack.enter_context(_start_alertmanager(folder, webhook.server_port))
        settings = dict(state.settings)
        if state.is_shared:
            engine = RedisServer(folder)
            stack.callback(engine.close)
            settings["LOCO_ENGINE"] = engine.url
        workload = Workload(server, folder, settings)
        stack.callback(workload.stop)
        servers = []
        for number, program in enumerate(_PROGRAMS):
            (own := folder / program).mkdir()
            servers.append(
                stack.enter_context(
                    Prometheus(
                        own,
                        {"app": workload.ports},
                        rules=[FOLDER / "alerts" / "loco.rules.yml"],
                        alertmanager=None if number else alertmanager.port,
                        program=program,
                    )
                )
            )
        yield Live(servers, workload, state)


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


def _find_lacking(dashboard: str, expr: str, state: State) -> list[str]:
    """Return why an expression may have no data: metrics that lack their state."""
    names = {row.prometheus_name: name for name, row in CATALOGUE.items()}
    series = {it.name for it in list_selectors(expand_to_all(dashboard, expr)) if it.name}
    used = {names[it] for name in series if (it := re.sub(r"_(bucket|count|sum)$", "", name)) in names}
    return [f"{name}: {state.metrics[name]}" for name in used & set(state.metrics)]


def _list_needed(state: State) -> list[PanelQuery]:
    """Return the queries that must have data."""
    return [
        it for it in list_queries() if it.name not in state.panels and not _find_lacking(it.dashboard, it.expr, state)
    ]


def _returns_data(prometheus: Prometheus, query: PanelQuery, values: Mapping[str, str]) -> bool:
    expr, now = expand_variables(query.expr, {**values, **WINDOWS}), time.time()
    if query.target["instant"]:
        return bool(prometheus.query(expr))
    return bool(prometheus.query_range(expr, now - 60, now, 1))


def _list_choices(prometheus: Prometheus, dashboard: str, variable: str) -> list[str]:
    query = list_variables(dashboard)[variable]["query"]["query"]
    found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
    assert found
    now = time.time()
    return prometheus.list_label_values(found[2], expand_to_all(dashboard, found[1]), now - 60, now + 1)


def test_every_query_returns_data_of_the_workload(live: Live) -> None:
    needed = _list_needed(live.state)
    assert len(needed) > 50
    for prometheus in live.servers:
        _check_all(live, prometheus, needed)
        for dashboard in DASHBOARDS:
            _check_choices(prometheus, dashboard, [it for it in needed if it.dashboard == dashboard])


def _check_all(live: Live, prometheus: Prometheus, needed: Sequence[PanelQuery]) -> None:
    """Wait until each query has data with all values of its variables."""
    pending = {it.name: it for it in needed}

    def is_complete() -> bool:
        live.workload.check()
        for name, query in list(pending.items()):
            if _returns_data(prometheus, query, dict.fromkeys(list_variables(query.dashboard), ".+")):
                del pending[name]
        return not pending

    deadline = time.monotonic() + PATIENCE / 2
    while not is_complete():
        assert time.monotonic() < deadline, sorted(pending)


def _check_choices(prometheus: Prometheus, dashboard: str, needed: Sequence[PanelQuery]) -> None:
    """Require data with many values of each variable, and with some single one."""
    choices = {variable: _list_choices(prometheus, dashboard, variable) for variable in list_variables(dashboard)}
    assert all(choices.values()), choices
    everything = dict.fromkeys(choices, ".+")
    for query in needed:
        for variable, values in choices.items():
            if f"${variable}" not in query.expr:
                continue
            many = "(" + "|".join(re.escape(value).replace("\\", "\\\\") for value in values) + ")"
            # A busy machine may miss a scrape, after which series are stale for a moment.
            prometheus.until(
                lambda query=query, chosen={**everything, variable: many}: _returns_data(prometheus, query, chosen)
            )
            singles = [{**everything, variable: value} for value in values]
            prometheus.until(
                lambda query=query, singles=singles: any(_returns_data(prometheus, query, it) for it in singles)
            )


def test_alert_goes_from_the_workload_to_a_webhook(live: Live, webhook: _Webhook) -> None:
    def find_alert() -> Any:
        alerts = [alert for body in list(webhook.bodies) for alert in body["alerts"]]
        return next((it for it in alerts if it["labels"]["alertname"] == "LocoCallsUnpriced"), None)

    live.servers[0].until(lambda: find_alert() is not None)
    alert = find_alert()
    assert alert["status"] == "firing"
    assert alert["labels"]["severity"] == "warning"
    assert alert["annotations"]["summary"] == "claude-harbour of anthropic has no known price"
    assert alert["annotations"]["runbook_url"].endswith("/LocoCallsUnpriced.md")


def test_annotations_show_alerts_and_budgets(live: Live) -> None:
    for dashboard, board in DASHBOARDS.items():
        for annotation in board["annotations"]["list"]:
            if _find_lacking(dashboard, annotation["expr"], live.state):
                continue
            expr = expand_to_all(dashboard, annotation["expr"])
            for prometheus in live.servers:
                prometheus.until(lambda expr=expr, prometheus=prometheus: bool(prometheus.query(expr)))
