"""Metrics that no panel shows, each with the reason."""

NOT_SHOWN: dict[str, str] = {}
"""Reasons by OpenTelemetry name."""
