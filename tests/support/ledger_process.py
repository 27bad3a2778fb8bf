"""A process of its own that uses a ledger's file: `python ledger_process.py PATH spend NAME`, or `PATH hold`."""

import sys
from pathlib import Path

from loco_otel._budgets.sqlite_ledger import SqliteLedger
from loco_otel.money import Budget, Charge, Scope

LIMIT = 1_000
NOW = 1_800_000_000.0
LEASE = 100.0


def charge(usd: int) -> Charge:
    return Charge("agent", None, None, "gpt-4o", usd, 1000)


def ledger(path: Path, limit: int = LIMIT) -> SqliteLedger:
    return SqliteLedger(path, [Budget(Scope.ALL, "*", limit)], lease=LEASE, lock_timeout=30.0)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def spend(path: Path, name: str) -> int:
    """Spend until nothing is left; return what was spent."""
    books = ledger(path)
    spent = turn = 0
    while books.reserve_estimate(f"{name}-{turn}", charge(7), NOW).admitted:
        books.settle_reservation(f"{name}-{turn}", charge(5 + turn % 3), NOW)
        spent += 5 + turn % 3
        turn += 1
    return spent


def hold(path: Path) -> None:
    """Spend something, reserve something, report it, and wait for the end."""
    books = ledger(path)
    books.settle_reservation("done", charge(300), NOW)
    books.reserve_estimate("under way", charge(600), NOW)
    say("holding")
    sys.stdin.read()


if __name__ == "__main__":
    where, what = Path(sys.argv[1]), sys.argv[2]
    if what == "hold":
        hold(where)
    else:
        say(str(spend(where, sys.argv[3])))
