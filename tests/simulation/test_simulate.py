"""`loco-otel simulate`, scenarios of one's own, and the examples."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner, Result

from loco_otel.cli.main import main
from loco_otel.simulation import ScenarioError, list_built_in, load_scenario, plot_results
from loco_otel.simulation import plot_results as plot_module

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "simulator.md").read_text()

OWN = """
name = "night"
ticks = 60
capacity = 2
service = 2.5
spread = "exponential"

[[groups]]
name = "batch"
tasks = 40
tenant = "acme"

[[groups]]
name = "chat"
count = 3
rate = 0.2
at = 10
tenant = "globex"
service = 0.5
"""


GROUPED = [name for name in list_built_in() if load_scenario(name).groups]
"""The built-in scenarios of agents with tasks; `test_runs.py` has those with runs."""


def simulate(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["simulate", *arguments])


@pytest.mark.parametrize("scenario", GROUPED)
def test_each_scenario_is_shown_under_each_policy(scenario: str) -> None:
    done = simulate(scenario, "--policy", "load,fair", "--seeds", "2")
    assert done.exit_code == 0, done.output
    for policy in ("load", "fair", "fifo", "round-robin", "semaphore"):
        assert policy in done.output
    assert scenario in done.output
    assert "means over 2 runs" in done.output


def test_same_seed_gives_the_same_and_another_does_not() -> None:
    first, again, other = (simulate("fairness", "--seed", seed).output for seed in ("1", "1", "2"))
    assert first == again != other


def test_json_has_all_fields() -> None:
    told = json.loads(simulate("burst", "--json", "--against", "", "--alpha", "0", "--capacity", "3").output)
    assert told["scenario"]["capacity"] == 3
    (only,) = told["outcomes"]
    assert (only["policy"], only["served"], only["starved"]) == ("load", 36, 0)
    assert [group["served"] for group in only["groups"]] == list(range(1, 9))
    assert set(only["groups"][0]) == {"group", "asked", "served", "mean", "p50", "p95", "p99", "longest"}


def test_custom_scenario_runs(tmp_path: Path) -> None:
    path = tmp_path / "night.toml"
    path.write_text(OWN)
    done = simulate(str(path), "--policy", "load", "--against", "semaphore", "--seeds", "3", "--json")
    outcomes = {told["policy"]: told for told in json.loads(done.output)["outcomes"]}
    chat = {policy: told["groups"][1]["mean"] for policy, told in outcomes.items()}
    assert chat["load"] < chat["semaphore"] / 2, "tenants are served alike, whatever the policy within them"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ticks = 0", "ticks=0: must be a whole number from 1 to 1000000"),
        ("tick = 5", "ticks is missing; tick is none of name, description, ticks, "),
        ("ticks = 5\n[[groups]]\nweight=1", "groups[1].name is missing"),
        (
            "ticks = 5\n[[groups]]\nname='a'\n[[groups]]\nname='b'\nrate=-1",
            "groups[2].rate=-1: must be a number from 0",
        ),
        ("ticks = 5\n[[groups]]\nname='a'\nrates=1", "groups[1].rates is none of name, count, "),
        ("ticks = = 5", "Invalid value"),
    ],
)
def test_fault_in_a_file_is_reported(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    groups = "" if "groups" in line else "\n[[groups]]\nname='a'"
    path.write_text(f"name='own'\n{line}{groups}")
    done = simulate(str(path))
    assert done.exit_code == 1
    assert done.output.startswith(f"Error: {path}: ")
    assert said in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope"], "'nope' is no scenario: there are agent_service, burst, fairness,"),
        (["nope.toml"], "nope.toml: No such file or directory"),
        (["burst", "--policy", "fare"], "'fare' is none of load, fair, las, fifo, round-robin, semaphore"),
        (["burst", "--alpha", "2"], "2.0 is not in the range 0<=x<=1"),
        (["burst", "--seeds", "0"], "0 is not in the range"),
        (["burst", "--plot", "x.what"], "x.what"),
    ],
)
def test_fault_in_the_command_is_reported(arguments: list[str], said: str) -> None:
    done = simulate(*arguments)
    assert done.exit_code != 0
    assert said in done.output


def test_plot_is_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "spike.svg"
    assert simulate("webhook_spike", "--plot", str(path)).exit_code == 0
    assert ET.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_missing_plot_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert plot_module is plot_results
    with pytest.raises(ScenarioError, match=r"pip install 'loco-otel\[plot\]'"):
        plot_results(load_scenario("burst"), [], tmp_path / "x.svg")


@pytest.mark.parametrize("scenario", GROUPED)
def test_example_shows_its_scenario(scenario: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / f"{scenario}.py"], capture_output=True, text=True, timeout=90, check=True
    )
    assert done.stdout.startswith(f"{scenario}: ")
    assert "means over 20 runs" in done.stdout


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_page_shows_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs, own = blocks("toml")
    (tmp_path / "support.toml").write_text(runs)
    assert "question" in simulate("support.toml", "--policy", "las:run").output
    (tmp_path / "night.toml").write_text(own)
    commands = "".join(blocks("sh")).splitlines()
    assert commands
    printed = []
    for command in commands:
        program, subcommand, *arguments = shlex.split(command)
        assert (program, subcommand) == ("loco-otel", "simulate")
        done = simulate(*arguments)
        assert done.exit_code == 0, done.output
        printed.append(done.output)
    (shown,) = blocks("text")
    assert [line.rstrip() for line in shown.splitlines()] == [line.rstrip() for line in printed[0].splitlines()]
