"""Servers that divide a program among processes, each with limits of its own."""

import shlex
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from loco_otel.cli.doctor.report import Workers

_SERVERS = ("gunicorn", "uvicorn", "celery", "uwsgi")
_GUNICORN = "GUNICORN_CMD_ARGS"
_CONCURRENCY = "WEB_CONCURRENCY"


def workers(environ: Mapping[str, str], capacity: int | None) -> Workers:
    """Find out among how many processes a program will be divided, and how many calls that makes at once."""
    processes, origin = _from_gunicorn(environ.get(_GUNICORN, "")), _GUNICORN
    if processes is None:
        processes, origin = _number(environ.get(_CONCURRENCY, "")), _CONCURRENCY
    return Workers(
        tuple(name for name in _SERVERS if _is_installed(name)),
        processes,
        "" if processes is None else origin,
        None if processes is None or capacity is None else processes * capacity,
    )


def _from_gunicorn(arguments: str) -> int | None:
    """Read `-w 4`, `-w4`, `--workers 4` or `--workers=4`; the last one counts."""
    try:
        words = shlex.split(arguments)
    except ValueError:
        return None
    found = None
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if word in {"-w", "--workers"}:
            found = _number(following)
        elif word.startswith("--workers="):
            found = _number(word.removeprefix("--workers="))
        elif word.startswith("-w"):
            found = _number(word.removeprefix("-w").removeprefix("="))
    return found


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else None


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
