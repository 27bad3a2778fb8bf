"""Servers that divide a program among processes, each with limits of its own."""

import shlex
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from loco_otel.cli.doctor.report import WorkerProcesses

_SERVERS = ("gunicorn", "uvicorn", "celery", "uwsgi")
_GUNICORN_VARIABLE = "GUNICORN_CMD_ARGS"
_CONCURRENCY_VARIABLE = "WEB_CONCURRENCY"


def detect_workers(environ: Mapping[str, str], capacity: int | None) -> WorkerProcesses:
    """Find out among how many processes a program will be divided, and how many calls that makes at once."""
    processes, origin = _parse_gunicorn_arguments(environ.get(_GUNICORN_VARIABLE, "")), _GUNICORN_VARIABLE
    if processes is None:
        processes, origin = _parse_count(environ.get(_CONCURRENCY_VARIABLE, "")), _CONCURRENCY_VARIABLE
    return WorkerProcesses(
        tuple(name for name in _SERVERS if _is_installed(name)),
        processes,
        "" if processes is None else origin,
        None if processes is None or capacity is None else processes * capacity,
    )


def _parse_gunicorn_arguments(arguments: str) -> int | None:
    """Read `-w 4`, `-w4`, `--workers 4` or `--workers=4`; the last one counts."""
    try:
        words = shlex.split(arguments)
    except ValueError:
        return None
    found = None
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if word in {"-w", "--workers"}:
            found = _parse_count(following)
        elif word.startswith("--workers="):
            found = _parse_count(word.removeprefix("--workers="))
        elif word.startswith("-w"):
            found = _parse_count(word.removeprefix("-w").removeprefix("="))
    return found


def _parse_count(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else None


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
