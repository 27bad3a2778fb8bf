"""The rules of grafana/dashboard-linter, which is no package here; exceptions are in `dashboards/.lint`."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import promql_parser
import pytest
import yaml
from dashboard_files import (
    DASHBOARDS,
    FOLDER,
    expand_to_all,
    list_children,
    list_panels,
    list_selectors,
    list_variables,
)
from grafana_foundation_sdk.models import units

UNITS = {value for name, value in vars(units).items() if name[0].isupper() and isinstance(value, str)}
EXCLUSIONS = yaml.safe_load((FOLDER / ".lint").read_text())["exclusions"]

Complaints = Iterator[str]


def _list_targets(name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for panel in list_panels(name):
        for target in panel["targets"]:
            yield panel["title"], target


def _check_template_datasource(name: str) -> Complaints:
    found = {name: item["label"] for name, item in list_variables(name, "datasource").items()}
    wanted = {f"{kind}_datasource": f"{kind.capitalize()} data source" for kind in ("prometheus", "tempo")}
    if found != wanted:
        yield str(found)


def _check_template(name: str, variable: str) -> Complaints:
    item = list_variables(name).get(variable)
    if item is None:
        yield f"no variable {variable}"
        return
    wanted = {"multi": True, "includeAll": True, "allValue": ".+", "label": variable.capitalize()}
    if {key: item[key] for key in wanted} != wanted:
        yield str(item)
    if item["datasource"]["uid"] != "${prometheus_datasource}":
        yield f"{variable} has another data source"


def _check_template_job(name: str) -> Complaints:
    return _check_template(name, "job")


def _check_template_instance(name: str) -> Complaints:
    return _check_template(name, "instance")


def _check_template_label_promql(name: str) -> Complaints:
    for variable, item in list_variables(name).items():
        found = re.fullmatch(r"label_values\((.+), \w+\)", item["query"]["query"])
        if found is None:
            yield variable
        else:
            promql_parser.parse(expand_to_all(name, found[1]))


def _check_template_on_time_change_reload(name: str) -> Complaints:
    return (variable for variable, item in list_variables(name).items() if item["refresh"] != 2)


def _check_panel_datasource(name: str) -> Complaints:
    return (it["title"] for it in list_panels(name) if it["datasource"]["uid"] != "${prometheus_datasource}")


def _check_panel_title_description(name: str) -> Complaints:
    return (str(it["id"]) for it in list_panels(name) if not it.get("title") or not it.get("description"))


def _check_panel_units(name: str) -> Complaints:
    return (it["title"] for it in list_panels(name) if it["fieldConfig"]["defaults"].get("unit") not in UNITS)


def _check_panel_no_targets(name: str) -> Complaints:
    return (it["title"] for it in list_panels(name) if not it.get("targets"))


def _check_target_logql(name: str) -> Complaints:
    """Find queries of Loki: there is no such data source."""
    return (title for title, target in _list_targets(name) if target["datasource"]["type"] != "prometheus")


def _check_target_logql_auto(name: str) -> Complaints:
    return (title for title, target in _list_targets(name) if "$__auto" in target["expr"])


def _check_target_promql(name: str) -> Complaints:
    for title, target in _list_targets(name):
        try:
            promql_parser.parse(expand_to_all(name, target["expr"]))
        except ValueError as error:
            yield f"{title}: {error}"


def _check_target_rate_interval(name: str) -> Complaints:
    for title, target in _list_targets(name):
        if re.search(r"\b(?:rate|irate)\([^[]*\[(?!\$__rate_interval\])", target["expr"]):
            yield title


def _check_matcher(name: str, label: str) -> Complaints:
    for title, target in _list_targets(name):
        for selector in list_selectors(target["expr"].replace("$__rate_interval", "1m").replace("$__range", "1h")):
            wanted = (label, promql_parser.MatchOp.Re, f"${label}")
            if wanted not in [(it.name, it.op, it.value) for it in selector.matchers.matchers]:
                yield f"{title}: {selector.name}"


def _check_target_job(name: str) -> Complaints:
    return _check_matcher(name, "job")


def _check_target_instance(name: str) -> Complaints:
    return _check_matcher(name, "instance")


def _check_target_counter_agg(name: str) -> Complaints:
    for title, target in _list_targets(name):
        for series in _list_bare_counters(promql_parser.parse(expand_to_all(name, target["expr"]))):
            yield f"{title}: {series}"


def _list_bare_counters(node: object) -> Iterator[str]:
    """Yield the counters that are in no rate() or increase()."""
    if isinstance(node, promql_parser.Call) and node.func.name in {"rate", "irate", "increase"}:
        return
    if isinstance(node, promql_parser.VectorSelector) and (node.name or "").endswith("_total"):
        yield str(node.name)
    for child in list_children(node):
        yield from _list_bare_counters(child)


def _check_uneditable_dashboard(name: str) -> Complaints:
    if DASHBOARDS[name]["editable"]:
        yield "editable"


RULES: Mapping[str, Callable[[str], Complaints]] = {
    name.removeprefix("_check_").replace("_", "-"): check
    for name, check in dict(globals()).items()
    if name.startswith("_check_") and name not in {"_check_template", "_check_matcher"}
}


def test_all_rules_are_here() -> None:
    assert len(RULES) == 17
    assert set(EXCLUSIONS) <= set(RULES)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", DASHBOARDS)
def test_rule_holds_or_is_excluded(name: str, rule: str) -> None:
    complaints = set(RULES[rule](name))
    exclusion = EXCLUSIONS.get(rule, {"reason": "none is needed", "entries": []})
    assert exclusion["reason"]
    if "entries" in exclusion:
        title = DASHBOARDS[name]["title"]
        assert complaints == {it["panel"] for it in exclusion["entries"] if it["dashboard"] == title}
    else:
        assert complaints, f"{rule} holds: its exclusion is not needed"
