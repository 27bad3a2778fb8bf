"""Metrics that no panel shows, each with the reason."""

_ENGINE = "of the shared engine, whose panels are still to come"
NOT_SHOWN: dict[str, str] = dict.fromkeys(
    (
        "loco.engine.mode",
        "loco.engine.duration",
        "loco.engine.overbooked",
        "loco.engine.processes",
        "loco.engine.errors",
    ),
    _ENGINE,
)
"""Reasons by OpenTelemetry name."""
