"""The values of attributes on metrics, found once for each kind of call: finding them takes as long as all counting."""

from collections.abc import Callable
from typing import NamedTuple

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry.call_trace import format_resource_name
from loco_otel._telemetry.instruments import CardinalityLimit, remember
from loco_otel.events import Request


class SpendLabels(NamedTuple):
    """What the spending of a call is counted by."""

    agent: str
    tenant: str
    provider: str
    model: str


class MetricLabels:
    """Limits the values of attributes, and remembers the result for each kind of request.

    Args:
        limit: limits the values of one key.
        start_resource: called with the label of each resource, possibly more than once.

    """

    def __init__(self, limit: CardinalityLimit, start_resource: Callable[[str], None]) -> None:
        self._limit = limit
        self._start_resource = start_resource
        self._places: dict[tuple[str, tuple[str, ...]], tuple[str, str]] = {}
        self._spending: dict[tuple[str | None, ...], SpendLabels] = {}

    def limit_value(self, name: str, value: str | None) -> str:
        """Return the label of a value; `unknown` for None."""
        return key.UNKNOWN if value is None else self._limit(name, value)

    def get_resource(self, request: Request) -> str:
        """Return the label of a request's resources."""
        resource = self._limit(key.RESOURCE, format_resource_name(request))
        self._start_resource(resource)
        return resource

    def get_place(self, request: Request) -> tuple[str, str]:
        """Return the labels of a request's agent and resources."""
        kind = request.agent, request.resources
        found = self._places.get(kind)
        if found is None:
            found = self._limit(key.AGENT, request.agent), self.get_resource(request)
            remember(self._places, kind, found)
        return found

    def get_spending(self, request: Request, model: str | None) -> SpendLabels:
        """Return the labels of the spending of a call of a model."""
        kind = request.agent, request.tenant, request.provider, model
        found = self._spending.get(kind)
        if found is None:
            found = SpendLabels(
                self._limit(key.AGENT, request.agent),
                self.limit_value(key.TENANT, request.tenant),
                self.limit_value(key.PROVIDER, request.provider),
                self.limit_value(key.MODEL, model),
            )
            remember(self._spending, kind, found)
        return found
