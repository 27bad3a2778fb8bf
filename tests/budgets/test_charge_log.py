"""Charges by number: each is applied once, also by a server that has lost its last writes."""

from loco_otel._budgets.redis import charge_log
from loco_otel._budgets.redis.charge_log import ChargeEntry, ChargeLog


def send(log: ChargeLog, charge_id: str) -> ChargeEntry:
    entry = log.open_charge(charge_id, lambda _, number: (charge_id, number))
    log.number_charge(entry)
    return entry


def confirm(log: ChargeLog, charge_id: str, now: float) -> ChargeEntry:
    entry = send(log, charge_id)
    log.confirm_charge(entry, now)
    entry.is_returned = True
    return entry


def test_charges_have_consecutive_numbers() -> None:
    log = ChargeLog()
    assert [send(log, name).number for name in "abc"] == [1, 2, 3]


def test_charge_that_the_server_has_is_not_repeated() -> None:
    log = ChargeLog()
    first, second = send(log, "a"), send(log, "b")
    applied, lost = log.resume(1, 5.0)
    assert (applied, lost) == ([first], [])
    assert first.confirmed_at == 5.0
    assert (second.number, second.confirmed_at) == (None, None), "its caller repeats it"
    assert log.open_charge("a", first.make) is first, "a repeated settlement finds it"
    assert send(log, "b").number == 2


def test_confirmed_charge_that_was_lost_is_sent_again() -> None:
    log = ChargeLog()
    confirm(log, "a", 0.0)
    lost = [confirm(log, name, 1.0) for name in "bc"]
    assert log.resume(1, 60.0) == ([], lost)
    assert [log.number_charge(entry) for entry in lost] == [2, 3]


def test_charge_is_forgotten_after_ten_seconds() -> None:
    log = ChargeLog()
    confirm(log, "a", 0.0)
    confirm(log, "b", 5.0)
    log.prune(charge_log.REPLAY_SECONDS + 1)
    assert len(log) == 1
    assert [entry.id for entry in log.resume(0, 20.0)[1]] == ["b"]


def test_charge_whose_caller_has_no_answer_is_kept() -> None:
    log = ChargeLog()
    send(log, "a")
    log.resume(1, 0.0)
    log.prune(600.0)
    assert len(log) == 1
    log.prune(4000.0)
    assert len(log) == 0


def test_kept_charges_are_bounded() -> None:
    log = ChargeLog()
    for number in range(charge_log.MAX_ENTRIES + 10):
        confirm(log, str(number), 0.0)
        log.prune(0.0)
    assert len(log) == charge_log.MAX_ENTRIES


def test_number_of_a_refused_charge_is_used_again() -> None:
    log = ChargeLog()
    first = send(log, "a")
    assert log.withdraw_charge(first)
    assert first.number is None
    second = send(log, "b")
    assert second.number == 1
    send(log, "c")
    assert not log.withdraw_charge(second), "later ones were sent"


def test_charge_of_long_ago_counts_as_stored() -> None:
    log = ChargeLog()
    confirm(log, "a", 0.0)
    assert log.resume(0, 4000.0) == ([], []), "the server has forgotten the process, not the charge"
    assert len(log) == 0
