"""The column `held up by` of `loco-otel ps` and of a dump."""

import io

import pytest

from loco_otel._introspection.tables import AgentRow, ResourceRows, make_console, print_resources


def agent(name: str, holding: int = 0, waiting: int = 0) -> AgentRow:
    return AgentRow(name, holding, waiting, 1.0, 1.0, 0, 0.5, 1 if waiting else None)


def held_up_by(agents: tuple[AgentRow, ...], capacity: int | None = None, pause: float = 0.0) -> dict[str, str]:
    written = io.StringIO()
    holding, waiting = sum(row.holding for row in agents), sum(row.waiting for row in agents)
    rows = ResourceRows("llm", "load", capacity, holding, waiting, 0, 0.25, agents, pause)
    print_resources([rows], make_console(written))
    lines = written.getvalue().splitlines()
    header = next(line for line in lines if "held up by" in line)
    column = header.index("held up by")
    return {line.split()[1]: line[column:].strip() for line in lines[lines.index(header) + 1 :]}


def test_holders_are_named_by_their_slots() -> None:
    agents = (agent("chat", 1, 2), agent("batch", 3), agent("idle"))
    assert held_up_by(agents, 4) == {"chat": "batch 3, self 1", "batch": "-", "idle": "-"}


def test_fourth_holder_is_other() -> None:
    holders = tuple(agent(f"a{number}", 10 - number) for number in range(5))
    assert held_up_by((*holders, agent("chat", 0, 1)), 40)["chat"] == "a0 10, a1 9, a2 8, other 13"


@pytest.mark.parametrize(
    ("capacity", "pause", "shown"),
    [
        (1, 5.0, "the provider's pause"),
        (2, 0.0, "a rate limit or a reserved slot"),
        (None, 0.0, "a rate limit or a reserved slot"),
        (1, 0.0, "batch 1"),
    ],
)
def test_what_is_no_slot_is_named(capacity: int | None, pause: float, shown: str) -> None:
    assert held_up_by((agent("chat", 0, 1), agent("batch", 1)), capacity, pause)["chat"] == shown
