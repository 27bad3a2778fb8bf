"""The second act of the demo: agents of LangGraph and Google ADK in one process, beside plain code."""

import os
import re
import subprocess
import sys
from pathlib import Path

from patience import PATIENCE

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_demo_shows_agents_of_frameworks_by_name() -> None:
    libraries = os.environ["PYTHONPATH"]
    command = [sys.executable, EXAMPLES / "demo" / "run.py", EXAMPLES / "frameworks.py", libraries]
    # Whatever the pair contains is for the program alone.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    calls = {
        agent: int(number) for agent, number in re.findall(r"^ *(\w+) +(\d+) +\d+ +[\d.]+ s", done.stdout, re.MULTILINE)
    }
    assert calls == {"planner": 6, "editor": 6, "researcher": 6, "translator": 6, "frameworks": 6, "all": 30}
    assert "The server saw at most 2 calls at once; LOCO_CAPACITY was 2." in done.stdout


def test_demo_installs_what_the_pair_contains() -> None:
    def names(path: Path) -> set[str]:
        return set(re.findall(r"^[a-z][\w-]*", path.read_text(), re.MULTILINE))

    pair = names(Path(__file__).parents[1] / "pairs" / "agents_old.txt")
    assert names(EXAMPLES / "demo" / "frameworks.txt") <= pair
