"""The script of the ledger, as `EVALSHA` names it, and where its state is."""

import hashlib
from pathlib import Path

SCHEMA = 1
"""The version of the state in the server. Processes with another schema have other accounts."""

SOURCE = (Path(__file__).parent / "ledger.lua").read_text(encoding="utf-8")
SHA = hashlib.sha1(SOURCE.encode()).hexdigest()  # noqa: S324 - the server's name for a script


def make_ledger_key(namespace: str) -> str:
    """Return the prefix of all keys of a namespace's ledger, whose hash tag puts them in one slot of a cluster."""
    return f"loco:{{{namespace}}}:ledger:{SCHEMA}"
