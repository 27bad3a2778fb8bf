"""Programs of agent frameworks, with nothing of ours in their code: each call is scheduled once, under its agent.

In the programs each agent has a model of its own, `model-NAME`, and nobody's calls are of `model-nobody`. So the
server's record of a request shows whose it is, and what the scheduler charged shows whose it was taken for.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from llm_server import LlmServer
from patience import PATIENCE
from sdk_program import environ, script
from sdk_server import KEY
from sdk_versions import PAIR

FOLDER = Path(__file__).parent
CAPACITY = 2
DELAY = 0.05
"""Seconds of each request, so that those of a parallel step overlap."""


def number(name: str) -> dict[str, int]:
    """Return one call of each of four agents that run side by side."""
    return {f"{name}{index}": 1 for index in range(4)}


def alone(name: str) -> tuple[dict[str, int], ...]:
    """Return four runs, each with one call of one of them."""
    return tuple({agent: calls} for agent, calls in number(name).items())


class Program(NamedTuple):
    """What one program does: how many calls of each agent, and in which workflow and session some of them."""

    name: str
    calls: Mapping[str, int]
    workflows: Mapping[str, str | None]
    sessions: Mapping[str, str | None] = {}
    token_counts: int = 0
    runs: tuple[Mapping[str, int], ...] = ()
    """The calls of each run, by agent; empty where that is not checked."""


NEWEST = (
    Program(
        "pydantic_ai",
        {"planner": 3, "researcher": 1, "writer": 3, "nobody": 2, **number("critic-"), **number("sailor-")},
        {},
        {"planner": "voyage", "nobody": None},
        runs=({"planner": 3, "researcher": 1}, {"writer": 3}, *alone("critic-"), *alone("sailor-")),
    ),
    Program(
        "autogen",
        {
            "writer": 3,
            "critic": 1,
            "SelectorGroupChatManager": 1,
            "left": 1,
            "captain": 2,
            "mate": 1,
            "stoker": 2,
            "cook": 2,
            "nobody": 2,
            **number("sailor_"),
        },
        {"writer": "newsroom", "critic": "newsroom", "left": "SelectorGroupChat", "captain": None, "nobody": None},
        {"captain": None, "nobody": None},
        runs=(
            {"writer": 3, "critic": 1},
            {"SelectorGroupChatManager": 1, "left": 1},
            {"captain": 2, "mate": 1},
            *alone("sailor_"),
            {"stoker": 1, "cook": 1},
            {"stoker": 1, "cook": 1},
        ),
    ),
    Program(
        "agent_framework",
        {
            "planner": 3,
            "captain": 2,
            "dispatcher": 2,
            "nobody": 2,
            **{name: 2 * calls for name, calls in number("critic-").items()},
            **number("sailor-"),
        },
        {"dispatcher": "review", "critic-0": "review", "planner": None, "nobody": None},
        {"planner": "voyage", "nobody": None},
        runs=(
            {"planner": 3},
            {"captain": 2},
            {"dispatcher": 1, **number("critic-")},
            {"dispatcher": 1, **number("critic-")},
            *alone("sailor-"),
        ),
    ),
    Program(
        "langgraph",
        {"writer": 3, "supervisor": 8, "researcher": 4, "nobody": 1, **number("critic-"), **number("sailor-")},
        {},
        {"critic-0": "voyage", "sailor-3": "voyage", "nobody": None},
        runs=(
            {"writer": 3},
            number("critic-"),
            number("sailor-"),
            *4 * ({"supervisor": 2, "researcher": 1},),
        ),
    ),
    Program(
        "openai_agents",
        {
            "planner": 3,
            "captain": 2,
            "triage": 1,
            "expert": 1,
            "nobody": 1,
            **number("critic-"),
            **number("sailor-"),
        },
        {"planner": "sailing", "captain": None, "nobody": None},
        {"planner": "voyage", "captain": None},
        runs=({"planner": 3}, {"captain": 2}, {"triage": 1, "expert": 1}, *alone("critic-"), *alone("sailor-")),
    ),
    Program(
        "mixed",
        {
            "navigator": 3,
            "oracle": 1,
            "bosun": 3,
            "cook": 1,
            "carpenter": 3,
            "surgeon": 1,
            "stoker": 1,
            "bridge": 1,
            "deck": 1,
            "hold": 1,
            "engine": 1,
            "gull": 1,
            "whale": 1,
            "crab": 1,
            "nobody": 2,
            **number("diver_"),
        },
        {},
    ),
)
"""Programs of frameworks that take the newest SDKs."""

OLD = (
    Program(
        "google_adk",
        {
            "planner": 3,
            "captain": 2,
            "mate": 1,
            "writer": 1,
            "nobody": 7,
            **number("critic_"),
            **number("sailor_"),
        },
        {"planner": "sailing", "critic_3": "sailing", "nobody": None},
        {"planner": "voyage", "sailor_3": "session-3", "nobody": None},
        token_counts=1,
        runs=({"planner": 3, "captain": 2, "mate": 1, **number("critic_")}, {"writer": 1}, *alone("sailor_")),
    ),
    Program(
        "crewai",
        {
            "planner": 3,
            "writer": 1,
            "editor": 1,
            "mate": 1,
            "captain": 1,
            "nobody": 1,
            **number("critic-"),
            **number("sailor-"),
        },
        {"planner": "newsroom", "sailor-3": "newsroom", "editor": "newsroom", "critic-0": None, "nobody": None},
        {"mate": None, "nobody": None},
        token_counts=1,
        runs=(
            {"planner": 3, "writer": 1, "editor": 1, **number("sailor-")},
            {"mate": 1},
            {"captain": 1},
            *alone("critic-"),
        ),
    ),
    Program(
        "mixed_old",
        {
            "bosun": 3,
            "navigator": 3,
            "oracle": 1,
            "sailor": 1,
            "cook": 1,
            "nobody": 1,
            "bridge": 1,
            "deck": 1,
            "hold": 1,
            "gull": 1,
            "whale": 1,
            "crab": 1,
        },
        {"navigator": "ship", "gull": "ship", "bridge": None, "cook": None},
    ),
)
"""Programs of those that require older ones."""

PROGRAMS = NEWEST + OLD if PAIR == "agents_old" else NEWEST


@pytest.fixture(scope="module")
def process() -> Iterator[LlmServer]:
    with LlmServer() as server:
        yield server


@pytest.fixture
def server(process: LlmServer) -> LlmServer:
    process.reset()
    process.configure(delay=DELAY)
    return process


def run(program: str, server: LlmServer, folder: Path) -> tuple[list[list[str | None]], list[tuple[str, str, int]]]:
    """Return a program's charges: by agent, workflow, session and model, and by run and agent, each with its calls."""
    settings = {
        "LOCO_CAPACITY": str(CAPACITY),
        "LOCO_AGENT_ID": "nobody",
        "LOCO_COUNT_SPEND": "true",
        "GOOGLE_API_KEY": KEY,
        "GOOGLE_GEMINI_BASE_URL": server.url("gemini"),
        "CREWAI_DISABLE_TELEMETRY": "true",
        "CREWAI_TRACING_ENABLED": "false",
        "CREWAI_STORAGE_DIR": str(folder / "crewai"),
        "HOME": str(folder),
    }
    path = FOLDER / "programs" / f"{program}_program.py"
    result = subprocess.run(
        [script("opentelemetry-instrument"), sys.executable, FOLDER / "report.py", path],
        env={**environ(server), **settings},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "loco-otel cannot" not in result.stderr
    charges, runs = json.loads(result.stdout.splitlines()[-1])
    return charges, runs


def name_agent(model: str) -> str:
    """Return the agent whose model it is."""
    return model.partition("-")[2]


def count_alike(runs: Iterable[Mapping[str, int]]) -> Counter[frozenset[tuple[str, int]]]:
    """Return how many runs have the same calls."""
    return Counter(frozenset(calls.items()) for calls in runs)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_each_call_is_scheduled_once_under_its_agent(program: Program, server: LlmServer, tmp_path: Path) -> None:
    charges, runs = run(program.name, server, tmp_path)
    requests = server.requests()
    assert {request.status for request in requests} == {200}
    # What was sent.
    served = Counter(name_agent(request.model) for request in requests if request.generates)
    assert served == program.calls
    assert sum(not request.generates for request in requests) == program.token_counts
    assert server.peak() == CAPACITY
    # What was scheduled.
    charged: Counter[tuple[str, str]] = Counter()
    for agent, _, _, model, calls in charges:
        charged[agent, name_agent(model)] += calls
    assert charged == {(agent, agent): calls for agent, calls in program.calls.items()}
    for index, expected in ((1, program.workflows), (2, program.sessions)):
        found = {charge[0]: charge[index] for charge in charges if charge[0] in expected}
        assert found == expected
    # Which run each call belongs to: those of nobody to none.
    by_run: dict[str, dict[str, int]] = {}
    for name, agent, calls in runs:
        by_run.setdefault(name, {})[agent] = calls
    if program.runs:
        assert count_alike(by_run.values()) == count_alike(program.runs)
