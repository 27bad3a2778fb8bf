"""The step script: its parts, joined, as `EVALSHA` names them."""

import hashlib
import re
from pathlib import Path

SCHEMA = 3
"""The version of the state in the server. Processes with another schema share nothing with these."""

_PARTS = (
    *("state", "rates", "limit", "load", "fifo", "fair", "las", "tenants", "levels", "classes", "queues", "tuner"),
    *("grants", "contest", "sharing", "processes", "operations", "sync", "step", "reply"),
)
"""In the order in which each uses those before it."""

_FOLDER = Path(__file__).parent / "lua"

_CONSTANTS = re.compile(r"^local ([A-Z_]+(?:,\s+[A-Z_]+)*) = (\d+(?:, \d+)*)(?=\s)", re.MULTILINE)
_WORDS = re.compile(r"--[^\n]*|'[^'\n]*'|\b[A-Z_]+\b")


def _insert_constants(source: str) -> str:
    """Replace the constants that are whole numbers: a local costs each function that uses it, in each step."""
    values: dict[str, str] = {}
    for names, numbers in _CONSTANTS.findall(source):
        values |= zip(re.split(r",\s+", names), numbers.split(", "), strict=True)
    return _WORDS.sub(lambda word: values.get(word[0], word[0]), _CONSTANTS.sub("", source))


SOURCE = _insert_constants("".join((_FOLDER / f"{part}.lua").read_text(encoding="utf-8") for part in _PARTS))
SHA = hashlib.sha1(SOURCE.encode()).hexdigest()  # noqa: S324 - the server's name for a script


def make_base_key(namespace: str) -> str:
    """Return the prefix of all keys of a namespace, whose hash tag puts them in one slot of a cluster."""
    return f"loco:{{{namespace}}}:{SCHEMA}"
