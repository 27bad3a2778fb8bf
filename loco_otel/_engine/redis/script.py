"""The step script: its parts, joined, as `EVALSHA` names them."""

import hashlib
from pathlib import Path

SCHEMA = 1
"""The version of the state in the server. Processes with another schema share nothing with these."""

_PARTS = (
    *("state", "rates", "limit", "load", "fifo", "fair", "las", "tenants", "queues", "tuner", "grants", "sharing"),
    *("processes", "operations", "sync", "step", "reply"),
)
"""In the order in which each uses those before it."""

_FOLDER = Path(__file__).parent / "lua"

SOURCE = "".join((_FOLDER / f"{part}.lua").read_text(encoding="utf-8") for part in _PARTS)
SHA = hashlib.sha1(SOURCE.encode()).hexdigest()  # noqa: S324 - the server's name for a script


def make_base_key(namespace: str) -> str:
    """Return the prefix of all keys of a namespace, whose hash tag puts them in one slot of a cluster."""
    return f"loco:{{{namespace}}}:{SCHEMA}"
