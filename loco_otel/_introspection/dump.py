"""The result of `loco_otel.dump`: the state of all resources."""

from collections.abc import Sequence
from typing import Any

from loco_otel.events import MILLI, ResourceDump
from loco_otel.snapshots import RunSnapshot


class Dump:
    """The state of all resources at one moment. `str()` returns tables."""

    def __init__(self, resources: Sequence[ResourceDump], runs: Sequence[RunSnapshot] = ()) -> None:
        self.resources = tuple(resources)
        self.runs = tuple(runs)
        """Those that hold or wait now, the longest wait first."""

    def as_dict(self) -> dict[str, Any]:
        """Return the state as JSON values; weights in units."""
        return {
            "resources": [_convert_resource(dump) for dump in self.resources],
            "runs": [{**run._asdict(), "agents": list(run.agents), "weight": run.weight / MILLI} for run in self.runs],
        }

    def __str__(self) -> str:
        # Imported here, so that programs which never print a dump do not load the table library.
        from loco_otel._introspection.tables import format_dump  # noqa: PLC0415

        return format_dump(self.resources, self.runs)


def _convert_resource(dump: ResourceDump) -> dict[str, Any]:
    standing = dump.standing._asdict()
    standing["agents"] = [
        {**agent._asdict(), "queue_weight": agent.queue_weight / MILLI} for agent in dump.standing.agents
    ]
    standing["gates"] = dict(dump.standing.gates)
    standing["rate_limits"] = [limit._asdict() for limit in dump.standing.rate_limits]
    tickets = [
        {**ticket._asdict(), "weight": ticket.weight / MILLI, "resources": list(ticket.resources)}
        for ticket in dump.tickets
    ]
    return {**standing, "tickets": tickets, "left_out": dump.left_out}
