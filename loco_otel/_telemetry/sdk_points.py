"""Discards the points that OpenTelemetry's SDK keeps, in a forked child.

The SDK gives a child another `service.instance.id`, and keeps what it has aggregated in the parent: the counts of
histograms, which would be exported by both, and the last values of counters, from which it would subtract in an export
with delta temporality. It has no public way to start anew, so this depends on private names. An SDK without these names
keeps its points.
"""

from contextlib import suppress
from typing import Any


def discard_points(meter: Any) -> None:
    """Discard all points of the instruments that have the scope of a meter. Takes no lock, which may be held."""
    with suppress(AttributeError):
        for storage in meter._measurement_consumer._reader_storages.values():
            for instrument, matches in tuple(storage._instrument_view_instrument_matches.items()):
                if instrument.instrumentation_scope == meter._instrumentation_scope:
                    for match in matches:
                        # What the SDK itself does when it collects a delta.
                        match._attributes_aggregation = {}
