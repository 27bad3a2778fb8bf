"""What a settled call cost, as telemetry asks for it."""

from collections.abc import Callable
from typing import TypeAlias

from loco_otel.events import Spent

MICRO = 1_000_000
"""Micro-USD in one USD."""

Price: TypeAlias = Callable[[Spent], int | None]
"""Tells what a call cost, in micro-USD; None where the model's price is not known."""


def no_price(_: Spent) -> int | None:
    """Know no price."""
    return None
