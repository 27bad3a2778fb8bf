"""The ledger on a server: shared by processes, after crashes, and while the server is away."""

import _thread
import logging
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis_ledger_process
from forked_child import run_in_child
from patience import PATIENCE
from redis_ledger_process import AMOUNT, CALLERS, LIMIT, make_charge, make_ledger
from redis_server import RedisServer
from shared_engine import wait_until
from timed_ledger import TimedLedger, use_set_clock

from loco_otel._budgets.account import ADMITTED, Decision
from loco_otel._budgets.ledger_client import LedgerClient
from loco_otel._budgets.redis.ledger import LedgerServer, RedisLedger
from loco_otel._budgets.redis.reader import RedisLedgerView
from loco_otel._budgets.redis.script import make_ledger_key
from loco_otel._core.ticket import Ticket
from loco_otel.errors import LedgerError
from loco_otel.events import Request
from loco_otel.money import Budget, Period, Scope, Unit

NOW = 1_800_000_000.0
LEASE = 100.0


@pytest.fixture
def aof_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("aof")


@pytest.fixture
def aof_server(aof_folder: Path) -> Iterator[RedisServer]:
    server = RedisServer(aof_folder, aof=True)
    yield server
    server.close()


def run_process(server: RedisServer, namespace: str, ttl: float, what: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, redis_ledger_process.__file__, server.url, namespace, str(ttl), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def read_amounts(ledger: Any) -> tuple[int, int]:
    (status,) = ledger.read_statuses(NOW)
    return status.spent, status.reserved


def read(server: RedisServer, namespace: str) -> tuple[int, int]:
    """Return what another program reads."""
    view = RedisLedgerView(server.url, namespace, 60.0)
    try:
        return read_amounts(view)
    finally:
        view.close()


# Shared by processes.


def test_callers_of_four_processes_never_overspend(shared_server: RedisServer, namespace: str) -> None:
    workers = [run_process(shared_server, namespace, 5.0, "spend") for _ in range(4)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    ends = [worker.communicate(timeout=PATIENCE)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4
    assert CALLERS * 4 * (AMOUNT - 2) > LIMIT, "there are more callers than room"
    assert read(shared_server, namespace) == (sum(map(int, ends)), 0)
    # There is room for this many at least; each takes up to 2 less than its estimate.
    assert LIMIT // AMOUNT * (AMOUNT - 2) <= sum(map(int, ends)) <= LIMIT


def test_killed_process_leaves_its_spending_alone(shared_server: RedisServer, namespace: str) -> None:
    victim = run_process(shared_server, namespace, 1.0, "hold")
    assert victim.stdout is not None
    assert victim.stdout.readline() == "holding\n"
    ledger = make_ledger(shared_server.url, namespace, 1.0)
    assert not ledger.reserve_estimate("next", make_charge(700), NOW).admitted
    assert read_amounts(ledger) == (300, 600)
    victim.kill()
    victim.communicate(timeout=PATIENCE)
    wait_until(lambda: ledger.reserve_estimate("next", make_charge(700), NOW).admitted)
    assert read_amounts(ledger) == (300, 700)
    ledger.close()
    assert read(shared_server, namespace) == (300, 0), "a process that ends gives up its reservations"


@pytest.fixture
def make(shared_server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Return a function that makes ledgers, as processes have them, whose server has a clock that is set."""
    use_set_clock(monkeypatch)
    made = []

    def make(*budgets: Budget) -> TimedLedger:
        limits = budgets or [Budget(Scope.ALL, "*", LIMIT)]
        ledger = TimedLedger(shared_server, namespace, limits, UTC, LEASE, NOW)
        made.append(ledger)
        return ledger

    yield make
    for ledger in made:
        ledger.close()


def test_reservations_expire_with_their_process(make: Callable[..., Any]) -> None:
    dead, alive = make(), make()
    dead.reserve_estimate("dead's", make_charge(600), NOW)
    alive.reserve_estimate("alive's", make_charge(400), NOW)
    for seconds in (40, 80, LEASE - 1):
        assert not alive.reserve_estimate("next", make_charge(1), NOW + seconds).admitted
    alive.renew_reservations([], NOW + LEASE + 1)
    assert alive.reserve_estimate("next", make_charge(600), NOW + LEASE + 1).admitted
    dead.settle_reservation("dead's", make_charge(5), NOW + LEASE + 2)
    assert read_amounts(alive) == (5, 1000), "it is charged when it ends after all"


def test_process_that_was_frozen_registers_again(make: Callable[..., Any]) -> None:
    frozen, alive = make(), make()
    frozen.reserve_estimate("1", make_charge(600), NOW)
    for seconds in (40, 80, LEASE + 1):
        alive.renew_reservations([], NOW + seconds)
    assert [it.reserved for it in alive.read_statuses(NOW + LEASE + 1)] == [0]
    frozen.renew_reservations([], NOW + LEASE + 2)
    assert [it.reserved for it in alive.read_statuses(NOW + LEASE + 2)] == [600]
    frozen.settle_reservation("1", make_charge(10), NOW + LEASE + 2)
    assert [(it.spent, it.reserved) for it in alive.read_statuses(NOW + LEASE + 2)] == [(10, 0)]


def test_frozen_server_ends_no_reservation(make: Callable[..., Any]) -> None:
    one, other = make(), make()
    one.reserve_estimate("1", make_charge(600), NOW)
    other.renew_reservations([], NOW + 10)
    thawed = NOW + 10 * LEASE  # neither could renew
    assert not other.reserve_estimate("2", make_charge(600), thawed).admitted
    one.renew_reservations([], thawed + LEASE / 4)
    for seconds in (0.4, 0.6, 0.9):
        assert not other.reserve_estimate("2", make_charge(600), thawed + seconds * LEASE).admitted


def test_reservations_of_the_dead_end_among_short_processes(make: Callable[..., Any]) -> None:
    dead = make()
    dead.reserve_estimate("dead's", make_charge(600), NOW)
    admitted = []
    for number in (1, 2):  # as a job that runs now and then: no process was there before it
        job = make()
        charge = make_charge(600)
        admitted.append(job.reserve_estimate(f"job {number}", charge, NOW + 10 * number * LEASE).admitted)
        job.close()
    assert admitted == [False, True]


def test_process_of_two_days_ago_repeats_no_charge(make: Callable[..., Any]) -> None:
    suspended, alive = make(), make()
    suspended.settle_reservation("1", make_charge(100), NOW)
    later = NOW + 2 * 86_400
    alive.renew_reservations([], later)
    assert not alive._redis.call("HEXISTS", f"{alive._link._key}:sessions", suspended._link.owner).startswith(b":1")
    suspended.renew_reservations([], later + 1)
    assert [it.spent for it in alive.read_statuses(later + 1)] == [100]


def test_process_that_returns_after_two_days_keeps_its_session(make: Callable[..., Any]) -> None:
    suspended = make()
    suspended.settle_reservation("1", make_charge(100), NOW)
    suspended.renew_reservations([], NOW + 2 * 86_400)
    assert suspended._redis.call("HGET", f"{suspended._link._key}:sessions", suspended._link.owner).endswith(b":1\r\n")


def test_burial_is_bounded_per_step(make: Callable[..., Any]) -> None:
    dead, alive = make(), make()
    for number in range(450):
        dead.reserve_estimate(str(number), make_charge(1), NOW)
    for seconds in (40, 80):
        alive.renew_reservations([], NOW + seconds)
    left = []
    for _ in range(3):
        alive.renew_reservations([], NOW + LEASE + 1)
        left.append(int(alive._redis.call("HLEN", f"{alive._link._key}:holds:{dead._link.owner}").strip(b":\r\n")))
    assert left == [250, 50, 0]
    assert [it.reserved for it in alive.read_statuses(NOW + LEASE + 1)] == [0]


def test_reader_ignores_what_the_dead_have_reserved(make: Callable[..., Any]) -> None:
    dead, alive = make(), make()
    dead.reserve_estimate("1", make_charge(600), NOW)
    assert [it.reserved for it in alive.read_statuses(NOW + 1)] == [600]
    assert [it.reserved for it in alive.read_statuses(NOW + LEASE + 1)] == [0]


def test_threshold_is_reported_by_one_process(shared_server: RedisServer, namespace: str) -> None:
    ledgers = [make_ledger(shared_server.url, namespace) for _ in range(4)]
    reached: list[int] = []
    barrier = threading.Barrier(len(ledgers))

    def spend(ledger: RedisLedger, name: str) -> None:
        barrier.wait()
        for number in range(25):
            update = ledger.settle_reservation(f"{name}-{number}", make_charge(10), NOW)
            reached.extend(it.percent for it in update.reached)

    threads = [threading.Thread(target=spend, args=(ledger, str(name))) for name, ledger in enumerate(ledgers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ledger in ledgers:
        ledger.close()
    assert sorted(reached) == [50, 80, 95]


def test_limits_count_as_the_asking_process_states_them(shared_server: RedisServer, namespace: str) -> None:
    small = make_ledger(shared_server.url, namespace, limit=100)
    large = make_ledger(shared_server.url, namespace, limit=1000)
    assert not small.reserve_estimate("1", make_charge(101), NOW).admitted
    assert large.reserve_estimate("2", make_charge(101), NOW).admitted
    assert not small.reserve_estimate("3", make_charge(1), NOW).admitted
    small.close()
    large.close()


def test_amounts_are_exact_to_two_to_the_53(shared_server: RedisServer, namespace: str) -> None:
    limit = 2**53 - 1
    ledger = make_ledger(shared_server.url, namespace, limit=limit)
    ledger.settle_reservation("1", make_charge(limit - 3), NOW)
    assert ledger.reserve_estimate("2", make_charge(2), NOW).admitted
    assert not ledger.reserve_estimate("3", make_charge(2), NOW).admitted
    assert ledger.reserve_estimate("4", make_charge(1), NOW).admitted
    update = ledger.settle_reservation("2", make_charge(2), NOW)
    assert [it.spent for it in update.statuses] == [limit - 1]
    assert read_amounts(ledger) == (limit - 1, 1)
    assert [it.usd for it in ledger.compute_totals([])] == [limit - 1]
    ledger.close()


def test_any_name_can_be_charged(shared_server: RedisServer, namespace: str) -> None:
    ledger = RedisLedger(LedgerServer(shared_server.url, namespace, 5.0, 60.0), [Budget(Scope.AGENT, None, LIMIT)])
    names = ["two words", "a|b", '"', "é\n", "\ud800", "\x00", ""]
    for number, name in enumerate(names):
        ledger.settle_reservation(str(number), make_charge(10, name), NOW)
    expected = sorted(name.replace("\ud800", "?") for name in names)
    assert sorted(it.key.key for it in ledger.read_statuses(NOW)) == expected
    assert sorted(it.by[0] or "" for it in ledger.compute_totals(["agent"])) == expected
    ledger.close()


def test_repeated_settlement_charges_once(shared_server: RedisServer, namespace: str) -> None:
    ledger = make_ledger(shared_server.url, namespace)
    assert ledger.settle_reservation("1", make_charge(100), NOW).statuses
    assert ledger.settle_reservation("1", make_charge(100), NOW).statuses == ()
    assert read_amounts(ledger) == (100, 0)
    ledger.close()


def test_nothing_of_a_ledger_expires(shared_server: RedisServer, namespace: str) -> None:
    budgets = [
        Budget(scope, None if scope is not Scope.ALL else "*", LIMIT, unit, period)
        for scope in (Scope.ALL, Scope.AGENT, Scope.RUN, Scope.SESSION)
        for period in Period
        for unit in Unit
    ]
    ledger = RedisLedger(LedgerServer(shared_server.url, namespace, 5.0, 60.0), budgets)
    charge = make_charge(10)._replace(run="run", session="session")
    ledger.reserve_estimate("1", charge, NOW)
    ledger.settle_reservation("1", charge, NOW)
    ledger.reserve_estimate("2", charge, NOW)
    ledger.cancel_reservation("2", NOW, sent=True)
    ledger.reserve_estimate("3", charge, NOW)
    ledger.renew_reservations([], NOW)
    keys = shared_server.call("KEYS", f"{make_ledger_key(namespace)}:*").decode().split("\r\n")[2::2]
    assert len(keys) >= 9, keys
    assert {key: shared_server.call("PTTL", key) for key in keys} == dict.fromkeys(keys, b":-1\r\n")
    ledger.close()


def test_sums_of_an_ended_period_are_removed(make: Callable[..., Any]) -> None:
    ledger = make(Budget(Scope.AGENT, None, LIMIT, period=Period.MINUTE), Budget(Scope.ALL, "*", LIMIT))
    for number in range(8):
        ledger.settle_reservation(str(number), make_charge(10, f"agent {number}"), NOW)
    assert len(ledger.read_statuses(NOW)) == 9
    ledger.renew_reservations([], NOW + 61)
    assert [it.key.key for it in ledger.read_statuses(NOW + 61)] == ["*"]
    assert [it.spent for it in ledger.read_statuses(NOW + 61)] == [80]


def test_runs_of_a_month_ago_are_removed(make: Callable[..., Any]) -> None:
    ledger = make()
    charge = make_charge(10)._replace(run="old")
    ledger.settle_reservation("1", charge, NOW)
    ledger.settle_reservation("2", charge._replace(run="new"), NOW + 31 * 86_400)
    assert [it.by for it in ledger.compute_totals(["run"])] == [("new",)]
    assert [it.calls for it in ledger.compute_totals([])] == [2]


def test_server_decides_when_a_period_ends(make: Callable[..., Any]) -> None:
    """The process's idea of the time is that of its last reply, however far the server's has gone on."""
    ledger = make(Budget(Scope.ALL, "*", 100, period=Period.HOUR))
    for hours in range(3):
        assert ledger.reserve_estimate(f"a{hours}", make_charge(100), NOW + 3600 * hours).admitted
        assert ledger.settle_reservation(f"a{hours}", make_charge(100), NOW + 3600 * hours + 1).statuses[0].spent == 100
        assert not ledger.check_estimate(make_charge(1), NOW + 3600 * hours + 2).admitted


# Faults.


def test_restart_that_lost_writes_is_repaired(aof_server: RedisServer, aof_folder: Path, namespace: str) -> None:
    ledgers = [make_ledger(aof_server.url, namespace) for _ in range(2)]
    for ledger in ledgers:
        ledger.settle_reservation("early", make_charge(10), NOW)
    saved = shutil.copytree(aof_folder / "appendonlydir", aof_folder / "saved")
    for number, ledger in enumerate(ledgers):
        ledger.settle_reservation("late", make_charge(100 + number), NOW)
        ledger.reserve_estimate("under way", make_charge(50), NOW)
    aof_server.kill()
    shutil.rmtree(aof_folder / "appendonlydir")
    saved.rename(aof_folder / "appendonlydir")
    aof_server.start()
    wait_until(lambda: read(aof_server, namespace) == (221, 100))
    for ledger in ledgers:
        ledger.settle_reservation("under way", make_charge(5), NOW)
    aof_server.kill()
    aof_server.start()
    for ledger in ledgers:
        wait_until(lambda ledger=ledger: can_use(ledger))  # type: ignore[misc]
    assert read(aof_server, namespace) == (231, 0), "nothing is charged twice"
    for ledger in ledgers:
        ledger.close()


def can_use(ledger: RedisLedger) -> bool:
    try:
        ledger.renew_reservations([], NOW)
    except LedgerError:
        return False
    return True


@pytest.mark.parametrize(
    "fault", [("SCRIPT", "FLUSH"), ("CLIENT", "KILL", "TYPE", "normal"), ("FLUSHALL",)], ids=lambda words: words[0]
)
def test_fault_is_repaired_within_a_call(own_server: RedisServer, namespace: str, fault: tuple[str, ...]) -> None:
    ledger = make_ledger(own_server.url, namespace)
    ledger.settle_reservation("1", make_charge(100), NOW)
    ledger.reserve_estimate("2", make_charge(200), NOW)
    own_server.call(*fault)
    assert ledger.reserve_estimate("3", make_charge(300), NOW).admitted
    assert not ledger.reserve_estimate("4", make_charge(401), NOW).admitted
    assert read_amounts(ledger) == (100, 500), "of the last ten seconds everything is there again"
    ledger.close()


def test_server_that_is_away_is_logged_once(
    own_server: RedisServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = own_server.url.replace("redis://", "redis://:secret@")
    own_server.call("CONFIG", "SET", "requirepass", "secret")
    ledger = make_ledger(url, namespace, timeout=0.25)
    numbers = count()
    settled: list[int] = []
    client = LedgerClient(ledger, lambda: NOW, lambda _, charge, __: settled.append(charge.usd or 0))
    client.start_maintenance()
    wait_until(lambda: can_use(ledger))
    with caplog.at_level(logging.WARNING, logger="loco_otel"):
        own_server.kill()
        for _ in range(50):
            with pytest.raises(LedgerError, match=r"the ledger redis://:\*\*\*@127.0.0.1:\d+ can't be used"):
                ledger.reserve_estimate(str(next(numbers)), make_charge(1), NOW)
        for _ in range(3):
            assert client.settle_reservation(make_ticket(), make_charge(10)).statuses == ()
        own_server.start()
        own_server.call("CONFIG", "SET", "requirepass", "secret")
        wait_until(lambda: len(settled) == 3)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    away, back = (record.getMessage() for record in caplog.records)
    assert "does not answer" in away
    assert "answers again" in back
    assert "secret" not in caplog.text
    ledger.close()


def make_ticket() -> Ticket:
    return Ticket(Request("agent", 1000), "here")


def test_settlement_with_unknown_outcome_is_charged_once(own_server: RedisServer, namespace: str) -> None:
    ledger = make_ledger(own_server.url, namespace, timeout=0.25)
    client = LedgerClient(ledger, lambda: NOW, lambda *_: None)
    client.start_maintenance()
    wait_until(lambda: can_use(ledger))
    ticket = make_ticket()
    client.reserve_estimate(ticket, make_charge(100), ())
    own_server.freeze()
    assert client.settle_reservation(ticket, make_charge(70)).statuses == ()
    own_server.thaw()
    wait_until(lambda: read(own_server, namespace) == (70, 0))
    wait_until(lambda: not client._deferred)
    assert read(own_server, namespace) == (70, 0)
    ledger.close()


def test_reservation_with_unknown_outcome_is_dropped(own_server: RedisServer, namespace: str) -> None:
    ledger = make_ledger(own_server.url, namespace, timeout=0.25)
    wait_until(lambda: can_use(ledger))
    own_server.freeze()
    with pytest.raises(LedgerError):
        ledger.reserve_estimate("1", make_charge(100), NOW)
    own_server.thaw()
    wait_until(lambda: can_use(ledger))
    wait_until(lambda: read_amounts(ledger) == (0, 0))
    ledger.close()


def test_failed_write_shifts_no_reply(own_server: RedisServer, namespace: str) -> None:
    ledger = make_ledger(own_server.url, namespace)
    ledger.settle_reservation("1", make_charge(100), NOW)
    own_server.freeze()
    assert ledger._link._connection is not None
    ledger._link._connection.socket.shutdown(socket.SHUT_WR)
    decisions: list[Decision] = []
    caller = threading.Thread(
        target=lambda: decisions.append(ledger.reserve_estimate("2", make_charge(200), NOW)), daemon=True
    )
    caller.start()
    wait_until(lambda: not ledger._link._is_ready)
    own_server.thaw()
    caller.join(PATIENCE)
    assert decisions == [ADMITTED]
    assert [(it.spent, it.reserved) for it in ledger.settle_reservation("2", make_charge(50), NOW).statuses] == [
        (150, 0)
    ]
    ledger.close()


def test_ended_call_of_a_lost_server_keeps_no_reservation(own_server: RedisServer, namespace: str) -> None:
    ledger = make_ledger(own_server.url, namespace, timeout=0.25)
    client = LedgerClient(ledger, lambda: NOW, lambda *_: None)
    client.start_maintenance()
    wait_until(lambda: can_use(ledger))
    ticket = make_ticket()
    client.reserve_estimate(ticket, make_charge(100), ())
    own_server.freeze()
    client.cancel_reservation(ticket)
    own_server.thaw()
    wait_until(lambda: read(own_server, namespace) == (0, 0))
    ledger.close()


def test_forked_child_is_another_process(shared_server: RedisServer, namespace: str) -> None:
    ledger = make_ledger(shared_server.url, namespace)
    ledger.reserve_estimate("parent's", make_charge(100), NOW)
    owner = ledger._link.owner

    def settle_in_child() -> None:
        ledger.after_fork()
        assert ledger._link.owner != owner
        ledger.settle_reservation("child's", make_charge(50), NOW)
        ledger.close()

    assert run_in_child(settle_in_child)
    assert read_amounts(ledger) == (50, 100)
    ledger.settle_reservation("parent's", make_charge(100), NOW)
    assert read_amounts(ledger) == (150, 0)
    ledger.close()


def test_budgets_can_change_while_the_server_is_away(own_server: RedisServer, namespace: str) -> None:
    ledger = make_ledger(own_server.url, namespace, timeout=0.25)
    wait_until(lambda: can_use(ledger))
    own_server.kill()
    ledger.set_budgets([Budget(Scope.ALL, "*", 50), Budget(Scope.AGENT, "new", 7)], UTC)
    own_server.start()
    wait_until(lambda: can_use(ledger))
    view = RedisLedgerView(own_server.url, namespace, 60.0)
    assert {it.key.key: it.limit for it in view.read_statuses(NOW)} == {"*": 50, "new": 7}
    view.close()
    ledger.close()


def test_closed_ledger_fails_as_one_that_is_away(shared_server: RedisServer, namespace: str) -> None:
    ledger = make_ledger(shared_server.url, namespace)
    ledger.reserve_estimate("1", make_charge(10), NOW)
    ledger.close()
    with pytest.raises(LedgerError):
        ledger.settle_reservation("1", make_charge(10), NOW)


def test_charges_that_cannot_be_sent_are_not_kept_twice(own_server: RedisServer, namespace: str) -> None:
    ledger = make_ledger(own_server.url, namespace, timeout=0.25)
    own_server.kill()
    for number in range(10):
        with pytest.raises(LedgerError):
            ledger.settle_reservation(str(number), make_charge(1), NOW)
    assert len(ledger._link.log) == 0, "their callers keep them, up to a bound"
    ledger.close()


def test_missing_thread_is_started_by_a_later_call(
    shared_server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", fail)
        ledger = make_ledger(shared_server.url, namespace)
        with pytest.raises(LedgerError, match="can't start new thread"):
            ledger.reserve_estimate("1", make_charge(10), NOW)
    assert ledger.reserve_estimate("1", make_charge(10), NOW).admitted
    ledger.close()
