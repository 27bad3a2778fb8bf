"""What a process shows without a scheduler: the SDKs that it leaves unscheduled, and its forked children."""

from collections.abc import Iterable

from opentelemetry.metrics import CallbackOptions, Observation

from loco_otel._fork import count_children
from loco_otel._telemetry import attributes as key
from loco_otel._telemetry.call_trace import ROOT_CONTEXT
from loco_otel.events import InactiveReason

_inactive: dict[str, tuple[str, InactiveReason]] = {}
"""Version and reason by SDK."""


def record_inactive(sdk: str, version: str, reason: InactiveReason) -> None:
    """Record that the calls of an installed SDK are not scheduled."""
    _inactive[sdk] = version, reason


def record_active(sdk: str) -> None:
    """Record that the calls of an SDK are scheduled after all."""
    _inactive.pop(sdk, None)


def list_sdks(active: Iterable[tuple[str, str]]) -> list[Observation]:
    """Return a 1 for each SDK whose calls are scheduled, and a 0 for each other."""
    scheduled = dict.fromkeys(active)
    points = [
        Observation(1, {key.SDK_NAME: name, key.SDK_VERSION: version}, ROOT_CONTEXT) for name, version in scheduled
    ]
    names = {name for name, _ in scheduled}
    for name, (version, reason) in _inactive.copy().items():
        if name not in names:
            attributes = {key.SDK_NAME: name, key.SDK_VERSION: version, key.INACTIVE_REASON: reason.value}
            points.append(Observation(0, attributes, ROOT_CONTEXT))
    return points


def observe_children(_: CallbackOptions) -> list[Observation]:
    """Return the number of forked children that run; nothing before the first fork."""
    running = count_children()
    return [] if running is None else [Observation(running, {}, ROOT_CONTEXT)]
