"""The scheduler's state as tables."""

import io
import os
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import IO, NamedTuple

from rich.console import Console
from rich.table import Table

from loco_otel.events import MILLI, ResourceDump, TicketSnapshot
from loco_otel.snapshots import RunSnapshot

_PLAIN_WIDTH = 200
_AGENT_COLUMNS = ("rank", "agent", "holding", "waiting", "oldest wait", "Q", "D", "L", "held up by")
_TEXT_COLUMNS = frozenset({"agent", "held up by"})
_MAX_HOLDERS = 3
"""Holders that the column `held up by` names; the rest are `other`."""
_RUN_COLUMNS = ("run", "agents", "workflow", "priority", "holding", "waiting", "oldest wait", "weight")
_REQUEST_COLUMNS = ("request", "agent", "state", "model", "weight", "for", "ticks", "note")


def make_console(file: IO[str] | None = None) -> Console:
    """Return a console without a width limit, except on an interactive terminal.

    Names come from the program and its callers, so markup in them is not interpreted.
    """
    looked_at = file is None and (sys.stdout.isatty() or "COLUMNS" in os.environ)
    return Console(file=file, width=None if looked_at else _PLAIN_WIDTH, markup=False, emoji=False, highlight=False)


def make_table(names: Iterable[str], numeric_columns: Collection[str]) -> Table:
    """Return an empty table with these columns, some of them numeric. Cells are never truncated."""
    made = Table(box=None, pad_edge=False, header_style="dim")
    for name in names:
        made.add_column(name, justify="right" if name in numeric_columns else "left", overflow="fold")
    return made


class AgentRow(NamedTuple):
    """One agent at one resource."""

    agent: str
    holding: int
    waiting: int
    oldest_wait: float
    """Seconds."""
    q: float
    """Weight of its queued requests."""
    d: int
    """Age of its oldest request, in ticks."""
    score: float | None
    """L; None if it does not compete."""
    rank: int | None
    """1 is next."""


class ResourceRows(NamedTuple):
    """One resource and its agents."""

    resource: str
    policy: str | None
    """None if unknown."""
    capacity: int | None
    """None if unlimited."""
    holding: int
    waiting: int
    tick: int
    alpha: float
    agents: tuple[AgentRow, ...]
    pause: float = 0.0
    """Seconds for which the provider still asks for a pause."""
    pause_header: str | None = None
    """The header that states them; None if unknown."""


def format_dump(resources: Sequence[ResourceDump], runs: Sequence[RunSnapshot] = ()) -> str:
    """Return a dump as text."""
    written = io.StringIO()
    out = make_console(written)
    for dump in resources:
        print_resources([_build_rows(dump)], out)
        if dump.tickets:
            out.print(_build_ticket_table(dump.tickets))
        if dump.left_out:
            out.print(f"and {dump.left_out} more")
        out.print()
    if runs:
        out.print(_build_run_table(runs))
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()).rstrip("\n")


def print_resources(resources: Iterable[ResourceRows], out: Console) -> None:
    """Print a table of agents for each resource."""
    for number, it in enumerate(resources):
        if number:
            out.print()
        capacity = "any number" if it.capacity is None else f"{it.capacity}"
        policy = "" if it.policy is None else f", policy {it.policy}"
        out.print(
            f"{it.resource}: {it.holding} hold, {it.waiting} wait, {capacity} at a time{policy}, alpha {it.alpha:g},"
            f" tick {it.tick}",
            style="bold",
        )
        if it.pause:
            header = "" if it.pause_header is None else f", by its header {it.pause_header}"
            out.print(f"paused for another {it.pause:.1f} s: the provider asks for it{header}")
        if not it.agents:
            continue
        agents = make_table(_AGENT_COLUMNS, numeric_columns={*_AGENT_COLUMNS} - _TEXT_COLUMNS)
        for row in sorted(it.agents, key=lambda row: (row.rank is None, row.rank or 0, row.agent)):
            agents.add_row(
                "-" if row.rank is None else str(row.rank),
                row.agent,
                str(row.holding),
                str(row.waiting),
                f"{row.oldest_wait:.1f} s" if row.waiting else "-",
                f"{row.q:g}",
                str(row.d),
                "-" if row.score is None else f"{row.score:.3f}",
                _describe_hold_up(it, row),
            )
        out.print(agents)


def _describe_hold_up(resource: ResourceRows, waiter: AgentRow) -> str:
    """Return what an agent's requests wait for now: the provider's pause, or the agents that hold slots."""
    if not waiter.waiting:
        return "-"
    if resource.pause:
        return "the provider's pause"
    if resource.capacity is None or resource.holding < resource.capacity:
        return "a rate limit or a reserved slot"
    holders = sorted((row for row in resource.agents if row.holding), key=lambda row: (-row.holding, row.agent))
    named = [f"{'self' if row is waiter else row.agent} {row.holding}" for row in holders[:_MAX_HOLDERS]]
    rest = sum(row.holding for row in holders[_MAX_HOLDERS:])
    return ", ".join([*named, f"other {rest}"] if rest else named)


def _build_rows(dump: ResourceDump) -> ResourceRows:
    it = dump.standing
    agents = tuple(
        AgentRow(
            agent=agent.agent if agent.tenant is None else f"{agent.tenant}/{agent.agent}",
            holding=agent.active,
            waiting=agent.waiting,
            oldest_wait=agent.oldest_wait,
            q=agent.queue_weight / MILLI,
            d=agent.queue_age,
            score=agent.score,
            rank=agent.rank,
        )
        for agent in it.agents
    )
    return ResourceRows(
        it.resource,
        it.policy,
        it.capacity,
        it.active,
        it.waiting,
        it.tick,
        it.alpha,
        agents,
        it.pause,
        it.pause_header,
    )


def _build_run_table(runs: Iterable[RunSnapshot]) -> Table:
    table = make_table(_RUN_COLUMNS, numeric_columns={"holding", "waiting", "oldest wait", "weight"})
    for it in runs:
        wait = f"{it.oldest_wait:.1f} s" if it.waiting else "-"
        agents = ", ".join(it.agents[:_MAX_HOLDERS]) + (", ..." if len(it.agents) > _MAX_HOLDERS else "")
        counts = str(it.holding), str(it.waiting), wait, f"{it.weight / MILLI:g}"
        table.add_row(it.run, agents, it.workflow or "-", it.priority, *counts)
    return table


def _build_ticket_table(tickets: Iterable[TicketSnapshot]) -> Table:
    requests = make_table(_REQUEST_COLUMNS, numeric_columns={"weight", "for", "ticks"})
    for it in tickets:
        notes = [f"asks for {'+'.join(it.resources)}"] if len(it.resources) > 1 else []
        notes += [f"times out in {it.time_left:.1f} s"] if it.time_left is not None else []
        notes += [f"shares the slot of {it.shares_with}"] if it.shares_with else []
        agent = it.agent if it.tenant is None else f"{it.tenant}/{it.agent}"
        weight, seconds = f"{it.weight / MILLI:g}", f"{it.seconds:.1f} s"
        requests.add_row(it.id, agent, it.state, it.model or "-", weight, seconds, str(it.ticks), ", ".join(notes))
    return requests
