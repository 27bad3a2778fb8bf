"""Why the calls of a test were granted."""

from sdk_scheduling import Scheduling

from loco_otel.events import Granted, GrantReason

FREE, SCORE, REENTRANT = GrantReason.FREE, GrantReason.SCORE, GrantReason.REENTRANT


def list_reasons(scheduling: Scheduling) -> list[GrantReason]:
    return [event.reason for event in scheduling.seen.of(Granted)]
