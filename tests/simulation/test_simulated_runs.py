"""`loco-otel simulate` with runs of dependent calls."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from loco_otel.cli.main import main
from loco_otel.simulation import RUN_POLICIES, RunPolicyResult, Scenario, compare_runs, load_scenario
from loco_otel.simulation.run_kinds import RunKind, generate_runs

SMALL = """
name = "small"
ticks = 300
capacity = 2
load = 0.9

[[runs]]
name = "short"
share = 3
steps = [1, 2]
sigma = 0.5

[[runs]]
name = "long"
steps = [8, 12]
fan_out = 3
think = 0.2
agents = ["a", "b"]
"""


def compare(scenario: Scenario, *policies: str, seeds: int = 1) -> dict[str, RunPolicyResult]:
    return {result.policy: result for result in compare_runs(scenario, policies, range(seeds))}


def test_table_of_the_policies_page_is_reproduced() -> None:
    """One of its twenty seeds, as all take a minute."""
    found = compare(load_scenario("runs"), "fifo", "fair", "fair:run", "las:run", "oracle")
    slowdowns = {name: result.all.slowdown for name, result in found.items()}
    assert slowdowns["fair"] > 0.95 * slowdowns["fifo"], "between agents it is no better"
    assert slowdowns["fair:run"] < 0.6 * slowdowns["fifo"]
    assert slowdowns["oracle"] < slowdowns["las:run"] < 0.75 * slowdowns["fair:run"]
    crawls = {name: result.kinds[2].slowdown_p99 for name, result in found.items()}
    assert crawls["las:run"] <= 1.5 * crawls["fifo"]


def test_arrivals_are_equal_for_all_policies_and_match_the_load() -> None:
    scenario = load_scenario("agent_service")
    runs = generate_runs(scenario.runs, 0.7, scenario.capacity, 20_000, 1)
    work = sum(run.work for run in runs)
    assert work / (20_000 * scenario.capacity) == pytest.approx(0.7, rel=0.2)
    assert generate_runs(scenario.runs, 0.7, scenario.capacity, 20_000, 1) == runs
    found = compare(scenario.model_copy(update={"ticks": 200}), *RUN_POLICIES)
    assert len({result.all.runs for result in found.values()}) == 1


def test_run_alone_has_slowdown_one() -> None:
    kind = RunKind(name="alone", steps=(3, 3), fan_out=2, think=1.0, sigma=0.5)
    scenario = Scenario(name="alone", ticks=3000, capacity=4, load=0.002, runs=(kind,))
    (result,) = compare_runs(scenario, ["fifo"], range(3))
    assert result.all.runs > 3
    assert result.all.slowdown == pytest.approx(1.0)


def test_command_prints_each_kind_under_each_policy(tmp_path: Path) -> None:
    file = tmp_path / "small.toml"
    file.write_text(SMALL)
    printed = CliRunner().invoke(main, ["simulate", str(file)], env={"COLUMNS": "200"}).output
    for word in ("small", "load 0.9", "short", "long", *RUN_POLICIES):
        assert word in printed
    arguments = ["simulate", str(file), "--policy", "las:run", "--load", "0.5", "--half-life", "20", "--json"]
    output = json.loads(CliRunner().invoke(main, arguments).output)
    assert [outcome["policy"] for outcome in output["outcomes"]] == ["las:run"]
    assert output["scenario"]["load"] == 0.5
    assert [kind["kind"] for kind in output["outcomes"][0]["kinds"]] == ["short", "long"]


def test_json_is_strict_without_a_half_life(tmp_path: Path) -> None:
    """Python writes and reads `Infinity`, which no other parser does."""
    files = {"runs.toml": SMALL, "groups.toml": 'name = "g"\nticks = 9\n[[groups]]\nname = "a"\ntasks = 3\n'}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        printed = CliRunner().invoke(main, ["simulate", str(tmp_path / name), "--policy", "las", "--json"]).output
        assert json.loads(printed, parse_constant=pytest.fail)["scenario"]["half_life"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs", "--policy", "semaphore"], "semaphore cannot order runs"),
        (["burst", "--policy", "las:run"], "las:run needs a scenario with runs"),
        (["burst", "--policy", "oracle"], "oracle needs a scenario with runs"),
        (["runs", "--policy", "sjf"], "'sjf' is none of load, fair, las, fifo"),
    ],
)
def test_unfit_policy_is_reported(arguments: list[str], message: str) -> None:
    assert message in CliRunner().invoke(main, ["simulate", *arguments]).output


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("steps = [3, 1]", "the steps of short must be two whole numbers, the smaller first"),
        ("steps = [0, 1]", "must be two whole numbers of at least 1"),
        ("fan_out = 0", "runs[1].fan_out=0: must be a whole number from 1 to 1000"),
        ("priority = 'urgent'", "runs[1].priority='urgent': must be one of interactive, normal, background"),
        ("speed = 1", "runs[1].speed is none of name, share, steps"),
    ],
)
def test_fault_in_a_kind_is_reported(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(SMALL.replace("steps = [1, 2]", line))
    assert message in CliRunner().invoke(main, ["simulate", str(file)]).output


def test_scenario_has_either_groups_or_runs(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(SMALL + '\n[[groups]]\nname = "a"\n')
    assert "a scenario has either groups or runs" in CliRunner().invoke(main, ["simulate", str(file)]).output
