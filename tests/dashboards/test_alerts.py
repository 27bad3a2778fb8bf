"""The rules: promtool accepts them and proves each alert; the configuration beside them is valid."""

import json
import re
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import _jsonnet
import promql_parser
import pytest
import yaml
from dashboard_files import DASHBOARDS, FOLDER, list_selectors, walk_query
from dashboard_prometheus import run_promtool

from dashboards.builder import settings
from dashboards.builder.metrics import CATALOGUE, get_labels
from dashboards.builder.queries import BUDGET_LABELS

RULES = FOLDER / "alerts" / "loco.rules.yml"
UNIT_TESTS = FOLDER / "alerts" / "tests" / "loco.rules.test.yml"
RUNBOOKS = FOLDER.parent / "docs" / "runbooks"
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule
}
RECORDS = [rule for group in GROUPS for rule in group["rules"] if "record" in rule]


def test_promtool_accepts_the_rules() -> None:
    assert "SUCCESS" in run_promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)


def test_promtool_unit_tests_pass() -> None:
    assert "SUCCESS" in run_promtool("test", "rules", UNIT_TESTS)


def test_each_alert_fires_and_resolves_in_a_unit_test() -> None:
    values = defaultdict(set)
    for test in yaml.safe_load(UNIT_TESTS.read_text())["tests"]:
        names = {re.findall(r'alertname="(\w+)"', it["expr"])[0] for it in test["promql_expr_test"]}
        assert names == {test["name"]}
        values[test["name"]].add(tuple(it["exp_samples"][0]["value"] for it in test["promql_expr_test"]))
    assert set(values) == set(ALERTS)
    assert {name: found for name, found in values.items() if found != {(0, 1, 0)}} == {}


@pytest.mark.parametrize("name", ALERTS)
def test_alert_has_texts_a_runbook_and_a_dashboard(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url", "dashboard_uid"}
    assert rule["annotations"]["dashboard_uid"] in DASHBOARDS
    page = (RUNBOOKS / f"{name}.md").read_text()
    assert rule["annotations"]["runbook_url"] == f"{settings.RUNBOOK_BASE}/{name}.md"
    assert re.findall(r"^#+ (.+)$", page, re.MULTILINE) == [
        name,
        "What it means",
        "What to look at",
        "What to do",
    ]
    assert f"Severity: {rule['labels']['severity']}." in page
    assert f"[{name}]({name}.md)" in (RUNBOOKS / "README.md").read_text()


def test_alert_of_a_job_names_it() -> None:
    # A price is missing for all jobs.
    unnamed = {"LocoCallsUnpriced"}
    for name, rule in ALERTS.items():
        text = rule["annotations"]["summary"] + rule["annotations"]["description"]
        assert ("$labels.job" in text or "$labels.instance" in text) == (name not in unnamed), name


def test_every_runbook_has_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {*ALERTS, "README"}


@pytest.mark.parametrize("page", sorted(RUNBOOKS.glob("*.md")), ids=lambda page: page.stem)
def test_runbook_names_panels_that_exist(page: Path) -> None:
    titles = {panel["title"] for board in DASHBOARDS.values() for panel in board["panels"]}
    quoted = re.findall(r'"([^"]+)"', " ".join(re.sub(r"`[^`]*`", "", page.read_text()).split()))
    names = {"Raise capacity?", "Storm", "USD per hour", "Empty in", "Resets in", "Reserved", "by model"}
    assert set(quoted) - titles - names == set()


def test_rules_use_metrics_and_labels_that_exist() -> None:
    labels = {row.prometheus_name: get_labels(name) for name, row in CATALOGUE.items()}
    labels |= {f"{row.prometheus_name}_bucket": get_labels(name) for name, row in CATALOGUE.items()}
    labels |= {rule["record"]: frozenset({*BUDGET_LABELS, "loco_budget_unit"}) for rule in RECORDS}
    for rule in (*RECORDS, *ALERTS.values()):
        for selector in list_selectors(rule["expr"]):
            used = {matcher.name for matcher in selector.matchers.matchers}
            assert used <= labels[selector.name], rule


def test_rules_use_only_functions_of_prometheus_2_42() -> None:
    called = {
        node.func.name
        for rule in (*RECORDS, *ALERTS.values())
        for node in walk_query(promql_parser.parse(rule["expr"]))
        if isinstance(node, promql_parser.Call)
    }
    assert called <= {"rate", "increase", "histogram_quantile", "max_over_time", "time"}


def test_recording_rules_are_named_by_convention() -> None:
    assert {
        rule["record"] for rule in RECORDS if not re.fullmatch(r"[a-z_]+:loco_[a-z_]+:[a-z0-9_]+", rule["record"])
    } == set()


def test_burn_windows_have_a_short_one_and_a_period() -> None:
    for row in settings.BURN_WINDOWS:
        assert row.period in settings.PERIOD_SECONDS
        long, short = (_parse_seconds(it) for it in (row.long, row.short))
        assert 3 <= long / short <= 12
        # Less than the whole budget in the long window, else the alert comes when it is gone.
        assert row.factor * long / settings.PERIOD_SECONDS[row.period] <= 0.5


def _parse_seconds(text: str) -> int:
    return int(text[:-1]) * {"m": 60, "h": 3600, "d": 86400}[text[-1]]


def test_grafana_rules_are_those_of_prometheus() -> None:
    (group,) = yaml.safe_load((FOLDER / "alerts" / "loco.grafana.yml").read_text())["groups"]
    assert [rule["title"] for rule in group["rules"]] == list(ALERTS)
    assert len({rule["uid"] for rule in group["rules"]}) == len(ALERTS)
    for rule in group["rules"]:
        assert rule["data"][0]["model"]["expr"] == ALERTS[rule["title"]]["expr"]
        assert rule["annotations"] == ALERTS[rule["title"]]["annotations"]


def test_configuration_of_prometheus_is_valid() -> None:
    output = run_promtool("check", "config", FOLDER / "provisioning" / "prometheus" / "prometheus.yml")
    assert "1 rule files found" in output


def test_configuration_of_alertmanager_is_valid() -> None:
    file = FOLDER / "provisioning" / "alertmanager" / "alertmanager.yml"
    done = subprocess.run(["amtool", "check-config", file], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mixin_holds_the_generated_files() -> None:
    snippet = (
        f"local it = import '{FOLDER}/mixin.libsonnet';"
        "{ d: it.grafanaDashboards, r: it.prometheusRules, a: it.prometheusAlerts }"
    )
    mixin = json.loads(_jsonnet.evaluate_snippet("mixin", snippet))
    assert mixin["d"] == {f"{name}.json": board for name, board in DASHBOARDS.items()}
    assert mixin["r"]["groups"] + mixin["a"]["groups"] == GROUPS


def test_compose_mounts_files_that_exist() -> None:
    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    named = set()
    for service in compose["services"].values():
        named |= set(re.findall(r"/etc/loco-otel/(\S+)", " ".join(service.get("command", ()))))
    assert len(named) == 4
    assert [name for name in named if not (FOLDER / name).is_file()] == []
    for file in (FOLDER / "provisioning").rglob("*.y*ml"):
        assert yaml.safe_load(file.read_text())
