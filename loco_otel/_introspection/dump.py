"""How everything stands, for people and programs: what `loco_otel.dump` returns and `loco-otel ps` shows."""

from collections.abc import Sequence
from typing import Any

from loco_otel.events import MILLI, ResourceDump


class Dump:
    """How everything stands at one moment. As text it is a table."""

    def __init__(self, resources: Sequence[ResourceDump]) -> None:
        self.resources = tuple(resources)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, fit for JSON; weights in units."""
        return {"resources": [_convert_resource(dump) for dump in self.resources]}

    def __str__(self) -> str:
        # Here, so that programs which never look do not wait for the library that draws tables.
        from loco_otel._introspection.tables import format_dump  # noqa: PLC0415

        return format_dump(self.resources)


def _convert_resource(dump: ResourceDump) -> dict[str, Any]:
    standing = dump.standing._asdict()
    standing["agents"] = [
        {**agent._asdict(), "queue_weight": agent.queue_weight / MILLI} for agent in dump.standing.agents
    ]
    tickets = [
        {**ticket._asdict(), "weight": ticket.weight / MILLI, "resources": list(ticket.resources)}
        for ticket in dump.tickets
    ]
    return {**standing, "tickets": tickets, "left_out": dump.left_out}
