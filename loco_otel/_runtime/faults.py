"""Log messages about errors inside loco-otel, one per kind. No such error may reach the program."""

import logging

_logger = logging.getLogger("loco_otel")

UNSCHEDULED = "the call is sent unscheduled"
"""The effect of an error that prevents scheduling."""

_logged: set[str] = set()
"""The kinds that were logged."""


def log_fault(what: str, *, effect: str = "calls continue") -> None:
    """Log the exception being handled, once per `what`.

    Args:
        what: what failed; it completes "while".
        effect: what happens to calls now.

    """
    if what not in _logged:
        _logged.add(what)
        _logger.error(
            "loco-otel internal error while %s; %s (logged once; LOCO_ENABLED=false turns loco-otel off)",
            what,
            effect,
            exc_info=True,  # noqa: LOG014 - called in handlers
        )


def log_unsupported(what: str) -> None:
    """Log that a call cannot be scheduled, once per `what`."""
    if what not in _logged:
        _logged.add(what)
        _logger.warning("%s: %s (logged once)", what, UNSCHEDULED)
