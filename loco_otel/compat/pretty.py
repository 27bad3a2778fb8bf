"""The event log in coloured lines instead of JSON, enabled by `LOCO_LOG=pretty` or `install()`."""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from loco_otel._config.settings import is_pretty_log_enabled
from loco_otel.compat.logging import logger

_COLOURS = {
    "ENQUEUE": 36,
    "GRANT": 32,
    "RELEASE": 34,
    "BUDGET": 33,
    "TIMEOUT": 33,
    "ERROR": 31,
}


def _format_enqueue(data: Mapping[str, Any]) -> tuple[str, str]:
    return "ENQUEUE", f"weight={data.get('task_cost')} queue={data.get('queue_depth')} (tick {data.get('tick')})"


def _format_grant(data: Mapping[str, Any]) -> tuple[str, str]:
    score, waited = data.get("score", 0), data.get("dmax", 0)
    return "GRANT", f"score={score:.2f} waited={waited:.0f} (tick {data.get('tick')})"


def _format_release(data: Mapping[str, Any]) -> tuple[str, str]:
    return "RELEASE", f"cost={data.get('task_cost', 0)} util={data.get('utilization', 0):.0%} (tick {data.get('tick')})"


def _format_budget(data: Mapping[str, Any]) -> tuple[str, str]:
    limit = data.get("budget_limit")
    spend = f"spend={data.get('current_spend')} + task={data.get('task_cost')}"
    return "BUDGET", f"{spend} > limit={'none' if limit is None else limit} [{data.get('action')}]"


def _format_timeout(data: Mapping[str, Any]) -> tuple[str, str]:
    return "TIMEOUT", f"no slot of {data.get('resource')} (tick {data.get('tick')})"


def _format_error(data: Mapping[str, Any]) -> tuple[str, str]:
    return "ERROR", f"{data.get('error')} (tick {data.get('tick')})"


_FORMATTERS: Mapping[str, Callable[[Mapping[str, Any]], tuple[str, str]]] = {
    "enqueue": _format_enqueue,
    "grant": _format_grant,
    "release": _format_release,
    "budget_exceeded": _format_budget,
    "timeout": _format_timeout,
    "error": _format_error,
}


class PrettyFormatter(logging.Formatter):
    """Formats an event as one line. Other messages are unchanged.

    Args:
        colour: whether to colour the kind of event.

    """

    def __init__(self, *, colour: bool = True) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        message = record.getMessage()
        try:
            data = json.loads(message)
            line = _FORMATTERS[data["event"]]
        except (ValueError, TypeError, KeyError):
            return message
        kind, text = line(data)
        mark = f"[{kind}]"
        if self._colour:
            mark = f"\x1b[{_COLOURS[kind]}m{mark}\x1b[0m"
        return f"{mark} {data.get('agent')} {text}"


def install() -> None:
    """Replace the handlers of the event log by one that writes lines to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrettyFormatter(colour=handler.stream.isatty()))
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)


def auto_install() -> None:
    """Call `install` if `LOCO_LOG` is `pretty`."""
    if is_pretty_log_enabled():
        install()
