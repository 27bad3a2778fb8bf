"""The forms of the rows of the catalogue, from which programs import them."""

from enum import StrEnum
from typing import NamedTuple


class InstrumentKind(StrEnum):
    """The kinds of instrument in use."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    OBSERVABLE_GAUGE = "observable gauge"
    OBSERVABLE_COUNTER = "observable counter"


# Units that Prometheus spells out, as OpenTelemetry's compatibility page has it; `{annotations}` are dropped.
_PROMETHEUS_UNITS = {"s": "_seconds", "USD": "_USD"}


class MetricDefinition(NamedTuple):
    """One metric."""

    name: str
    kind: InstrumentKind
    unit: str
    """In UCUM: `s`, or an annotation such as `{request}`."""
    description: str
    attributes: tuple[str, ...]
    """Their keys; every point has all of them."""
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram, always explicit: an exponential one breaks the Prometheus exporter."""
    optional: tuple[str, ...] = ()
    """Keys that are omitted without a value."""

    @property
    def prometheus_name(self) -> str:
        """The name that the Prometheus exporter and OTLP make of it; a histogram's without `_bucket` etc."""
        total = "_total" if self.kind in {InstrumentKind.COUNTER, InstrumentKind.OBSERVABLE_COUNTER} else ""
        return self.name.replace(".", "_") + _PROMETHEUS_UNITS.get(self.unit, "") + total


class SpanEventDefinition(NamedTuple):
    """One event on a span."""

    name: str
    description: str
    attributes: tuple[str, ...]
    optional: tuple[str, ...] = ()
    """Keys that are omitted without a value."""


class SpanDefinition(NamedTuple):
    """One span."""

    name: str
    """With `{braces}` around what varies."""
    kind: str
    description: str
    attributes: tuple[str, ...]
    optional: tuple[str, ...] = ()
    events: tuple[SpanEventDefinition, ...] = ()
    link: tuple[str, ...] = ()
    """Keys on its links."""
