"""The ledger in a file: shared by processes, after crashes, and where the file can't be used."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import ledger_process
import pytest
from forked_child import run_in_child, start_child, went_well
from ledger_process import LEASE, LIMIT, NOW, charge
from patience import PATIENCE

from loco_otel._budgets import account
from loco_otel._budgets.ledger_client import LedgerClient
from loco_otel._budgets.memory_ledger import MemoryLedger
from loco_otel._budgets.sqlite_file import SqliteFile
from loco_otel._budgets.sqlite_ledger import LedgerView, SqliteLedger
from loco_otel.errors import LedgerError
from loco_otel.money import AccountKey, Action, Budget, Period, Scope, Unit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def process(path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, ledger_process.__file__, path, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def spent(path: Path) -> int:
    view = LedgerView(path)
    (standing,) = view.read_statuses(NOW)
    view.close()
    return standing.spent


def test_processes_at_full_speed_never_overspend(path: Path) -> None:
    workers = [process(path, "spend", str(number)) for number in range(4)]
    ends = [worker.communicate(timeout=PATIENCE)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4
    assert LIMIT - 7 < spent(path) == sum(map(int, ends)) <= LIMIT


def test_spending_survives_a_restart(path: Path) -> None:
    first = ledger_process.ledger(path)
    first.settle_reservation("1", charge(400), NOW)
    first.close()
    second = ledger_process.ledger(path)
    assert not second.check_estimate(charge(601), NOW).admitted
    assert second.check_estimate(charge(600), NOW).admitted
    assert [it.usd for it in second.compute_totals(["agent"])] == [400]
    second.close()


def test_killed_process_leaves_no_reservation_after_its_lease(path: Path) -> None:
    victim = process(path, "hold")
    assert victim.stdout is not None
    assert victim.stdout.readline() == "holding\n"
    books = ledger_process.ledger(path)
    assert not books.reserve_estimate("next", charge(200), NOW).admitted
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=PATIENCE)
    assert not books.reserve_estimate("next", charge(200), NOW + LEASE - 1).admitted, "nobody knows yet"
    assert books.reserve_estimate("next", charge(700), NOW + LEASE).admitted
    assert [(it.spent, it.reserved) for it in books.read_statuses(NOW + LEASE)] == [(300, 700)]
    books.close()


def test_repeated_settlement_charges_once(path: Path) -> None:
    books = ledger_process.ledger(path)
    books.settle_reservation("1", charge(100), NOW)
    again = books.settle_reservation("1", charge(100), NOW)
    assert again.statuses == ()
    assert spent(path) == 100
    books.renew_reservations([], NOW + 2 * 86_400)
    books.settle_reservation("1", charge(100), NOW + 2 * 86_400)
    assert spent(path) == 200, "ids are not kept for ever"
    books.close()


def test_forked_child_has_its_own_connection(path: Path) -> None:
    books = ledger_process.ledger(path)
    books.reserve_estimate("parent's", charge(100), NOW)
    assert run_in_child(lambda: (books.after_fork(), books.settle_reservation("child's", charge(50), NOW)))
    books.settle_reservation("parent's", charge(100), NOW)
    assert spent(path) == 150
    books.close()


def test_forked_childs_spending_is_kept_when_parent_closes(path: Path) -> None:
    books = ledger_process.ledger(path)
    books.settle_reservation("parent's", charge(1), NOW)
    reading, writing = os.pipe()
    told, telling = os.pipe()

    def spend_before_and_after() -> None:
        books.after_fork()
        books.settle_reservation("child's first", charge(10), NOW)
        os.write(telling, b"x")
        os.read(reading, 1)
        books.settle_reservation("child's second", charge(100), NOW)

    child = start_child(spend_before_and_after)
    os.read(told, 1)
    books.close()
    os.write(writing, b"x")
    assert went_well(child)
    assert spent(path) == 111
    for end in (reading, writing, told, telling):
        os.close(end)


def test_fork_waits_for_transactions_of_other_threads(path: Path) -> None:
    books = ledger_process.ledger(path)
    began, forking = threading.Event(), threading.Event()

    def in_a_transaction() -> None:
        with books._file.begin_write():
            began.set()
            forking.wait(PATIENCE)

    thread = threading.Thread(target=in_a_transaction)
    thread.start()
    began.wait(PATIENCE)
    # What is registered last runs first: the fork has begun when the transaction ends.
    os.register_at_fork(before=forking.set)
    child = start_child(lambda: (books.after_fork(), books.settle_reservation("child's", charge(50), NOW))[0])
    assert went_well(child)
    thread.join()
    books.settle_reservation("parent's", charge(100), NOW)
    assert spent(path) == 150
    books.close()


def test_budgets_may_change_while_calls_reserve_and_settle(path: Path) -> None:
    named, default = Budget(Scope.ALL, "*", 10**9), Budget(Scope.AGENT, None, 10**9)
    books = SqliteLedger(path, [named, default])
    accounts = [[named], [named, default]]
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for budgets in accounts:
                books.set_budgets(budgets, UTC)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for number in range(200):
            books.reserve_estimate(str(number), charge(10), NOW)
            books.settle_reservation(str(number), charge(10), NOW)
    finally:
        stop.set()
        changing.join()
    books.set_budgets([named], UTC)
    (standing,) = books.read_statuses(NOW)
    assert (standing.spent, standing.reserved) == (2000, 0)
    books.close()


def test_deleted_file_is_recreated(path: Path) -> None:
    books = ledger_process.ledger(path)
    books.settle_reservation("1", charge(10), NOW)
    books.close()
    path.unlink()
    books.settle_reservation("2", charge(20), NOW)
    assert spent(path) == 20
    books.close()


def test_relative_path_outlives_a_change_of_the_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = path.parent / "other"
    other.mkdir()
    monkeypatch.chdir(path.parent)
    books = ledger_process.ledger(Path(path.name))
    books.settle_reservation("1", charge(10), NOW)
    monkeypatch.chdir(other)
    books.close()  # as before each fork and after each error: the next operation opens it again
    books.settle_reservation("2", charge(20), NOW)
    assert spent(path) == 30
    assert not list(other.iterdir())
    books.close()


def test_reader_leaves_no_files_behind(path: Path) -> None:
    books = ledger_process.ledger(path)
    books.settle_reservation("1", charge(10), NOW)
    books.close()
    view = LedgerView(path)
    assert [standing.spent for standing in view.read_statuses(NOW)] == [10]
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    books.settle_reservation("2", charge(5), NOW)
    assert [standing.spent for standing in view.read_statuses(NOW)] == [15], "somebody writes again"
    books.close()
    view.close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_reader_gets_defaults_from_the_first_reservation(path: Path) -> None:
    default = Budget(Scope.AGENT, None, 1000)
    books = SqliteLedger(path, [default])
    books.reserve_estimate("1", charge(10), NOW)
    view = LedgerView(path)
    assert [(it.key.key, it.limit, it.reserved) for it in view.read_statuses(NOW)] == [("agent", 1000, 10)]
    books.set_budgets([default._replace(limit=5000)], UTC)
    books.reserve_estimate("2", charge(5), NOW)
    assert [(it.key.key, it.limit, it.reserved) for it in view.read_statuses(NOW)] == [("agent", 5000, 15)]
    view.close()
    books.close()


def test_leftovers_of_earlier_programs_are_removed(path: Path) -> None:
    ledger = ledger_process.ledger(path)
    ledger.reserve_estimate("of a killed one", charge(10), NOW)
    ledger.settle_reservation("of another", charge(10), NOW)
    books = LedgerClient(ledger, lambda: NOW + 2 * 86_400, lambda *_: None)
    books.run_maintenance()
    books.ledger.close()
    database = sqlite3.connect(path)
    assert [database.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("hold", "settled")] == [(0,)] * 2
    database.close()


def test_sessions_become_other_above_a_days_bound(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("spend_totals", "sqlite_records"):
        monkeypatch.setattr(f"loco_otel._budgets.{module}.MAX_KEYS", 3)
    books = SqliteLedger(path)
    for day in range(2):
        for number in range(5):
            call = charge(10)._replace(session=f"session {number}")
            books.settle_reservation(f"{day} {number}", call, NOW + day * 86_400)
        for number in range(3):
            call = charge(10)._replace(agent=f"agent {number}")
            books.settle_reservation(f"{day} {number} of an agent", call, NOW + day * 86_400)
        books.settle_reservation(f"{day} known", charge(10)._replace(session="session 0"), NOW + day * 86_400)
    calls = {it.by[0]: it.calls for it in books.compute_totals(["session"])}
    assert calls == {"session 0": 4, "session 1": 2, "session 2": 2, "other": 10}
    calls = {it.by[0]: it.calls for it in books.compute_totals(["agent"])}
    assert calls == {"agent": 12, "agent 0": 2, "agent 1": 2, "other": 2}
    books.close()


def test_settlement_time_does_not_grow_with_sessions(path: Path) -> None:
    books = SqliteLedger(path, [Budget(Scope.ALL, "*", 10**9)])

    def steps_of(number: int) -> int:
        """Count what SQLite does, in hundreds of its instructions."""
        steps = 0

        def count() -> None:
            nonlocal steps
            steps += 1

        assert books._file._connection is not None
        books._file._connection.set_progress_handler(count, 100)
        books.settle_reservation(str(number), charge(10)._replace(session=f"session {number}"), NOW)
        books._file._connection.set_progress_handler(None, 100)
        return steps

    first = steps_of(0)
    for number in range(1, 2000):
        books.settle_reservation(str(number), charge(10)._replace(session=f"session {number}"), NOW)
    assert steps_of(2000) <= 2 * first + 2
    books.close()


def test_statuses_are_read_by_one_query(path: Path) -> None:
    books = SqliteLedger(path, [Budget(Scope.SESSION, None, 1000)])
    for number in range(3):
        books.settle_reservation(str(number), charge(10)._replace(session=f"session {number}"), NOW)
    statements: list[str] = []
    assert books._file._connection is not None
    books._file._connection.set_trace_callback(statements.append)
    assert len(books.read_statuses(NOW)) == 3
    assert [statement.split()[0] for statement in statements] == ["BEGIN", "SELECT", "COMMIT"]
    books.close()


# Where the file can't be used.


def garbage(path: Path) -> str:
    path.write_bytes(b"this is no database" * 100)
    return "file is not a database"


def a_folder(path: Path) -> str:
    path.mkdir()
    return "is a folder"


def of_another_program(path: Path) -> str:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE theirs (x)")
    database.close()
    return "is a SQLite file of another program, not a ledger of loco-otel"


def of_a_later_version(path: Path) -> str:
    ledger_process.ledger(path).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    return "is of version 99; this loco-otel reads version 1"


def in_no_folder(path: Path) -> str:
    path.parent.rmdir()
    return "unable to open database file"


@pytest.mark.parametrize("spoil", [garbage, a_folder, of_another_program, of_a_later_version, in_no_folder])
@pytest.mark.parametrize("kind", [SqliteLedger, LedgerView])
def test_file_that_is_no_ledger_is_rejected_by_name(
    spoil: Callable[[Path], str], kind: Callable[[Path], object], path: Path
) -> None:
    said = spoil(path)
    with pytest.raises(LedgerError, match=said) as refused:
        kind(path)
    assert str(path) in str(refused.value)


def test_reader_creates_no_file(path: Path) -> None:
    with pytest.raises(LedgerError, match="unable to open"):
        LedgerView(path)
    assert not path.exists()


def test_locked_file_is_rejected_at_start_and_later(path: Path) -> None:
    books = SqliteLedger(path, [Budget(Scope.ALL, "*", LIMIT)], lock_timeout=0.01)
    books.reserve_estimate("1", charge(100), NOW)
    thief = sqlite3.connect(path, isolation_level=None)
    thief.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match="database is locked"):
        SqliteLedger(path, lock_timeout=0.01)
    for operation in (
        lambda: books.reserve_estimate("2", charge(1), NOW),
        lambda: books.settle_reservation("1", charge(70), NOW),
        lambda: books.cancel_reservation("1", NOW),
        lambda: books.renew_reservations(["1"], NOW),
    ):
        with pytest.raises(LedgerError, match="database is locked"):
            operation()
    thief.execute("ROLLBACK")
    thief.close()
    assert [(it.spent, it.reserved) for it in books.read_statuses(NOW)] == [(0, 100)], "nothing is half done"
    books.settle_reservation("1", charge(70), NOW)
    assert [(it.spent, it.reserved) for it in books.read_statuses(NOW)] == [(70, 0)]
    books.close()


def test_interrupted_transaction_is_rolled_back(path: Path) -> None:
    books = ledger_process.ledger(path)
    with pytest.raises(KeyboardInterrupt), books._file.begin_write() as database:
        database.execute("UPDATE account SET spent = 999")
        raise KeyboardInterrupt
    assert spent(path) == 0
    books.close()


# What readers of the file get.


def test_file_returns_the_limits_stated_last(path: Path) -> None:
    books = SqliteLedger(path, [Budget(Scope.AGENT, "a", 500, period=Period.DAY), Budget(Scope.AGENT, None, 70)])
    view = LedgerView(path)
    key = AccountKey(Scope.AGENT, "a", Unit.USD, Period.DAY)
    assert [(it.key, it.limit, it.spent, it.action) for it in view.read_statuses(NOW)] == [(key, 500, 0, Action.REJECT)]
    books.settle_reservation("1", charge(30), NOW)
    books.set_budgets([Budget(Scope.AGENT, "a", 900, period=Period.DAY, action=Action.ALERT)], UTC)
    assert [(it.key.key, it.limit, it.spent, it.action, it.since) for it in view.read_statuses(NOW)] == [
        ("a", 900, 0, Action.ALERT, None),
        ("agent", 70, 30, Action.REJECT, NOW),
    ]
    view.close()
    books.close()


def test_totals_can_start_at_a_day(path: Path) -> None:
    books = ledger_process.ledger(path)
    for day in range(3):
        books.settle_reservation(str(day), charge(10**day), NOW + 86_400 * day)
    view = LedgerView(path)
    totals = [
        view.compute_totals(["agent"], datetime.fromtimestamp(NOW + 86_400 * day, UTC))[0].usd for day in range(3)
    ]
    assert totals == [111, 110, 100]
    view.close()
    books.close()


def test_rejected_file_is_left_closed(path: Path) -> None:
    garbage(path)
    with pytest.raises(LedgerError):
        SqliteFile(path, 0.01)
    path.unlink()


# In memory: an operation that is broken off.


@pytest.mark.parametrize("step", range(4))
def test_reserved_sum_is_right_after_an_interruption(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    books = MemoryLedger([Budget(Scope.ALL, "*", LIMIT), Budget(Scope.AGENT, None, LIMIT)], lease=LEASE)
    books.reserve_estimate("1", charge(100), NOW)
    calls = 0
    amount = type(charge(1)).amount

    def interrupted(self: object, unit: Unit) -> int:
        nonlocal calls
        calls += 1
        if calls == step + 1:
            raise KeyboardInterrupt
        return amount(self, unit)  # type: ignore[arg-type]

    monkeypatch.setattr(account.Charge, "amount", interrupted)
    with pytest.raises(KeyboardInterrupt):
        books.reserve_estimate("2", charge(100), NOW)
    monkeypatch.undo()
    books._state._accounts[AccountKey(Scope.ALL, "*", Unit.USD, Period.TOTAL)].reserved += 55  # as if amid a sum
    books.cancel_reservation("1", NOW)
    assert {(it.spent, it.reserved) for it in books.read_statuses(NOW)} == {(0, 0)}
