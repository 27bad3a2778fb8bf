"""Reads the engine that processes share for `loco-otel ps --engine`."""

from collections import Counter
from collections.abc import Mapping
from itertools import groupby

from rich.console import Console
from rich.table import Table

from loco_otel._config.engine_rules import hide_password
from loco_otel._engine.redis.inspection import SharedState, read_state
from loco_otel.cli.metrics_page import PageError
from loco_otel.events import MILLI

_TIMEOUT = 5.0


def fetch_state(url: str, environ: Mapping[str, str]) -> SharedState:
    """Return the requests of all processes in the namespace of the environment.

    Raises:
        PageError: the server cannot be reached, or the client library is missing.

    """
    try:
        return read_state(url, environ.get("LOCO_ENGINE_NAMESPACE") or "default", _TIMEOUT)
    except Exception as error:
        raise PageError(f"{hide_password(url)} cannot be read: {error or type(error).__name__}") from error


def print_state(state: SharedState, console: Console) -> None:
    """Print the holders and waiters of each resource, with host and process."""
    for name, capacity in state.capacities.items():
        slots = "unlimited" if capacity is None else capacity
        mine = [ticket for ticket in state.tickets if name in ticket.resource.split("+")]
        counts = Counter(ticket.state for ticket in mine)
        table = Table(
            title=f"{name}: {counts['holding']} of {slots} slots held, {counts['waiting']} waiting, "
            f"{state.processes} processes",
            title_justify="left",
        )
        for column in ("agent", "state", "requests", "weight", "host", "pid"):
            table.add_column(column, justify="right" if column in {"requests", "weight", "pid"} else "left")
        for (agent, kind, host, pid), group in groupby(
            sorted(mine, key=lambda it: (it.state == "waiting", it.agent, it.host, it.pid)),
            key=lambda it: (it.agent, it.state, it.host, it.pid),
        ):
            tickets = list(group)
            weight = sum(ticket.weight for ticket in tickets) / MILLI
            table.add_row(agent, kind, str(len(tickets)), f"{weight:g}", host, str(pid))
        console.print(table)
    if not state.capacities:
        console.print("No process shares this engine.")
