"""The protocol of one process, without a server: numbers, window, sync, generation, certainty."""

from typing import Any

import pytest

from loco_otel._engine.redis.batches import (
    MAX_OPERATIONS,
    MAX_REPEATED,
    MAX_SYNC_TICKETS,
    WINDOW,
    Batch,
    BatchLog,
    LineState,
    Reply,
)

TTL = 5.0


def reply(status: str = "ok", epoch: str = "e1") -> Reply:
    return Reply.parse([1000, status, epoch, {}, {}, 0, 6000, 1])


def synced(now: float = 0.0) -> BatchLog:
    log = BatchLog(TTL)
    log.start_sync([], [], "host 1")
    assert log.take_sync_part(now) is not None
    assert log.accept_sync_reply(reply(), now)
    return log


def take(log: BatchLog, now: float) -> Batch:
    batch = log.take_batch(now)
    assert batch is not None
    return batch


def test_nothing_is_sent_before_the_first_sync() -> None:
    log = BatchLog(TTL)
    log.add_operation(("submit", "p-1"))
    assert log.take_batch(0.0) is None
    assert log.take_beat(["llm"], 0.0) is None


def test_each_batch_has_the_next_number() -> None:
    log = synced()
    log.add_operation(("submit", "p-1"))
    first = take(log, 1.0)
    log.add_operation(("end", "p-1", 0))
    second = take(log, 1.0)
    assert second.number == first.number + 1


def test_operations_wait_while_the_window_is_full() -> None:
    log = synced()
    for number in range(WINDOW + 2):
        log.add_operation(("submit", f"p-{number}"))
        if number < WINDOW:
            take(log, 1.0)
    assert log.take_batch(1.0) is None
    assert log.accept_reply(reply(), 1.1) is not None
    assert [it[1] for it in take(log, 1.1).operations] == [f"p-{WINDOW}", f"p-{WINDOW + 1}"]


def test_a_batch_has_a_bounded_number_of_operations() -> None:
    log = synced()
    for number in range(MAX_OPERATIONS + 1):
        log.add_operation(("submit", f"p-{number}"))
    assert len(take(log, 1.0).operations) == MAX_OPERATIONS
    assert len(take(log, 1.0).operations) == 1


def test_a_demand_for_a_sync_stops_the_batches() -> None:
    log = synced()
    log.add_operation(("submit", "p-1"))
    take(log, 1.0)
    assert log.accept_reply(reply("sync"), 1.1) is None
    log.add_operation(("submit", "p-2"))
    assert not log.is_synced
    assert log.take_batch(1.1) is None


def test_another_epoch_demands_a_sync() -> None:
    log = synced()
    log.add_operation(("submit", "p-1"))
    take(log, 1.0)
    assert log.accept_reply(reply(epoch="e2"), 1.1) is None
    assert not log.is_synced


def test_a_sync_states_the_epoch_and_the_last_answered_number() -> None:
    log = synced()
    log.add_operation(("submit", "p-1"))
    answered = take(log, 1.0)
    assert log.accept_reply(reply(), 1.1) == answered
    log.add_operation(("submit", "p-2"))
    take(log, 1.2)  # never answered
    part = start_sync(log, 2.0)
    assert (part[3], part[4]) == ("e1", answered.number)


def test_numbers_continue_after_a_sync() -> None:
    log = synced()
    log.add_operation(("submit", "p-1"))
    lost = take(log, 1.0)
    log.lose_sync()
    log.start_sync([], [], "host 1")
    part = log.take_sync_part(2.0)
    assert part is not None
    assert part.number == lost.number + 1


def test_a_sync_repeats_the_ends_that_were_not_answered() -> None:
    """Also over a second attempt: their corrections are known to nothing else."""
    log = synced()
    log.add_operation(("end", "p-1", 500, 0, 70))
    take(log, 1.0)
    log.add_operation(("end", "p-2", -200, -1, -30))
    assert start_sync(log, 2.0)[6] == [("end", "p-1", 500, 0, 70), ("end", "p-2", -200, -1, -30)]
    log.add_operation(("end", "p-3", 0, 0, 0))
    assert start_sync(log, 3.0)[6] == [
        ("end", "p-1", 500, 0, 70), ("end", "p-2", -200, -1, -30), ("end", "p-3", 0, 0, 0),
    ]  # fmt: skip
    assert log.accept_sync_reply(reply(), 3.0)
    assert start_sync(log, 4.0)[6] == []


def test_a_sync_repeats_the_reports_of_the_provider() -> None:
    log = synced()
    reports = [("refuse", "p-1", 2.0, "retry-after"), ("pause", "p-1", 1.0, "")]
    for operation in (*reports, ("suspend", "p-1", 0, 0)):
        log.add_operation(operation)
    take(log, 1.0)
    assert start_sync(log, 2.0)[6] == reports


def test_requests_that_were_never_sent_leave_nothing() -> None:
    """While no sync succeeds: neither they nor their ends, nor what a sync states anyway."""
    log = synced()
    log.lose_sync()
    for number in range(2000):
        log.add_operation(("submit", f"p-{number}", "llm", "a", 1000, 0, 0, 0))
        log.add_operation(("blocked", "llm", 1, f"p-{number}", "p-0"))
        log.add_operation(("end", f"p-{number}", 0, -1, 0, 0))
    assert (len(log._queue), log._unsent) == (0, set())
    assert start_sync(log, 2.0)[6] == []


def test_requests_that_the_window_held_back_leave_nothing() -> None:
    log = synced()
    for number in range(WINDOW + 1):
        log.add_operation(("submit", f"p-{number}"))
        log.take_batch(1.0)
    log.lose_sync()
    for number in range(WINDOW + 1):
        log.add_operation(("end", f"p-{number}", 0, -1, 0, 0))
    assert [operation[1] for operation in start_sync(log, 2.0)[6]] == [f"p-{number}" for number in range(WINDOW)]


def test_end_of_a_request_that_a_failed_sync_had_is_repeated() -> None:
    """The engine may have granted it."""
    log = synced()
    log.lose_sync()
    log.add_operation(("submit", "p-1"))
    start_sync(log, 2.0)
    log.lose_sync()
    log.add_operation(("end", "p-1", 0, -1, -700, 0))
    assert start_sync(log, 3.0)[6] == [("end", "p-1", 0, -1, -700, 0)]


def test_correction_of_a_returning_call_is_repeated() -> None:
    log = synced()
    log.lose_sync()
    log.add_operation(("submit", "p-1"))
    log.add_operation(("end", "p-1", 500, -1, 0, 0))
    assert start_sync(log, 2.0)[6] == [("end", "p-1", 500, -1, 0, 0)]


def test_repeated_operations_are_bounded_and_the_newest_stay() -> None:
    log = synced()
    log.lose_sync()
    for number in range(MAX_REPEATED + 2):
        log.add_operation(("end", f"p-{number}", 1, 0, 0, 0))
    assert len(log._queue) == MAX_REPEATED
    assert start_sync(log, 2.0)[6][0][1] == "p-2"
    log.lose_sync()
    log.add_operation(("end", "p-new", 1, 0, 0, 0))
    assert start_sync(log, 3.0)[6][0][1] == "p-3"
    assert len(log._repeated) == MAX_REPEATED


def test_repeated_operations_have_parts_after_the_leases() -> None:
    """Each is sent once. The last part follows them, as it ends the tickets that no part had."""
    log = synced()
    ends = [("end", f"p-{number}", 1, 0, 0, 0) for number in range(2 * MAX_OPERATIONS + 1)]
    log.lose_sync()
    for operation in ends:
        log.add_operation(operation)
    log.start_sync([], [(f"t-{number}",) for number in range(MAX_SYNC_TICKETS + 1)], "host 1")
    batches = []
    while (batch := log.take_sync_part(2.0)) is not None:
        batches.append(batch.operations)
        assert not log.is_synced
        assert log.accept_sync_reply(reply(), 2.0)
    assert log.is_synced
    first, second, third, fourth, last = batches
    syncs = [operations[0] for operations in (first, second, last)]
    assert [(part[1], part[2], len(part[6]), len(part[7])) for part in syncs] == [
        (1, 0, MAX_OPERATIONS, MAX_SYNC_TICKETS), (2, 0, 0, 1), (3, 1, 0, 0),
    ]  # fmt: skip
    assert [*syncs[0][6], *third, *fourth] == ends
    assert len(third) == MAX_OPERATIONS


def test_a_sync_that_fails_half_way_repeats_the_rest() -> None:
    log = synced()
    log.lose_sync()
    for number in range(MAX_OPERATIONS + 1):
        log.add_operation(("end", f"p-{number}", 1, 0, 0, 0))
    assert len(start_sync(log, 2.0)[6]) == MAX_OPERATIONS
    assert log.accept_sync_reply(reply(), 2.0)
    assert start_sync(log, 3.0)[6] == [("end", f"p-{MAX_OPERATIONS}", 1, 0, 0, 0)]


def test_a_sync_that_is_lost_meanwhile_starts_again() -> None:
    log = synced()
    start_sync(log, 2.0)
    log.lose_sync()
    assert log.accept_sync_reply(reply(), 2.1)
    assert log.take_sync_part(2.1) is None
    assert not log.is_synced


def test_a_sync_has_parts_and_ends_with_the_last_answer() -> None:
    log = BatchLog(TTL)
    log.start_sync([], [(f"p-{number}",) for number in range(MAX_SYNC_TICKETS + 1)], "host 1")
    first = log.take_sync_part(0.0)
    assert first is not None
    assert (first.operations[0][1:3], len(first.operations[0][7])) == ((1, 0), MAX_SYNC_TICKETS)
    assert log.accept_sync_reply(reply(), 0.0)
    assert not log.is_synced
    second = log.take_sync_part(0.0)
    assert second is not None
    assert (second.operations[0][1:3], len(second.operations[0][7])) == ((2, 1), 1)
    assert log.accept_sync_reply(reply(), 0.0)
    assert log.is_synced
    assert log.take_sync_part(0.0) is None


def test_operations_after_a_snapshot_follow_the_sync() -> None:
    log = BatchLog(TTL)
    log.start_sync([], [], "host 1")
    log.add_operation(("submit", "p-9"))
    assert log.take_sync_part(0.0) is not None
    assert log.take_batch(0.0) is None
    assert log.accept_sync_reply(reply(), 0.0)
    assert take(log, 0.0).operations == [("submit", "p-9")]


def test_a_failed_script_resets_the_state() -> None:
    log = synced()
    log.lose_sync(must_reset=True)
    for _ in range(2):
        log.start_sync([], [], "host 1")
        part = log.take_sync_part(1.0)
        assert part is not None
        assert [operation[0] for operation in part.operations] == ["reset", "sync"]
    assert log.accept_sync_reply(reply(epoch="e2"), 1.0)
    log.start_sync([], [], "host 1")
    part = log.take_sync_part(2.0)
    assert part is not None
    assert [operation[0] for operation in part.operations] == ["sync"]


def test_wakes_are_dropped_until_a_sync_is_complete() -> None:
    log = synced()
    assert log.accept_wake(0.1)
    start_sync(log, 0.2)
    assert not log.accept_wake(0.2)
    assert log.accept_sync_reply(reply(), 0.2)
    assert log.accept_wake(0.3)


def test_grants_count_only_while_the_own_lease_is_certain() -> None:
    """From when the last answered batch was sent: the answer may have been under way for long."""
    log = synced(now=0.0)
    log.add_operation(("beat", ["llm"]))
    take(log, 2.0)
    assert log.accept_reply(reply(), 5.0) is not None
    assert log.is_certain(6.0)
    assert not log.is_certain(6.1)
    assert not log.accept_wake(6.1)
    assert not log.is_synced


def test_an_answer_that_was_under_way_too_long_demands_a_sync() -> None:
    log = synced()
    log.add_operation(("submit", "p-1"))
    take(log, 1.0)
    assert log.accept_reply(reply(), 5.1) is None
    assert not log.is_synced


def test_a_beat_is_due_after_a_third_of_the_lease_time() -> None:
    log = synced(now=0.0)
    log.add_operation(("submit", "p-1"))
    take(log, 1.0)
    assert log.beat_at == TTL / 3, "other batches name no resources"
    assert log.take_beat(["llm"], 2.0) is not None
    assert log.beat_at == 2.0 + TTL / 3


def test_a_beat_follows_when_the_window_is_full() -> None:
    log = synced()
    for number in range(WINDOW):
        log.add_operation(("submit", f"p-{number}"))
        take(log, 1.0)
    assert log.take_beat(["llm"], 2.0) is None
    assert log.accept_reply(reply(), 2.1) is not None
    assert take(log, 2.1).operations == [("beat", ["llm"])]


def start_sync(log: BatchLog, now: float) -> Any:
    log.lose_sync()
    log.start_sync([], [], "host 1")
    part = log.take_sync_part(now)
    assert part is not None
    return part.operations[0]


LINE = ["llm", 2, 0, 0, 5, 1000, "load", "0.25", 1000, {}, {}, {}, {}, {}, "", ""]


def read_line(changes: dict[int, Any]) -> LineState:
    return LineState.parse([changes.get(index, field) for index, field in enumerate(LINE)])


def test_reports_of_used_slots_and_ticks_state_the_same_limits() -> None:
    assert read_line({2: 1, 3: 7, 4: 6}).states_same_limits(read_line({}))


@pytest.mark.parametrize(
    "changes",
    [
        {1: 3},
        {5: 1001},
        {6: "fair"},
        {7: "0.5"},
        {9: ["60", "59"]},
        {11: [2000, "requests", True, "llm"]},
        {12: ["8", "4", True]},
        {13: [2000, "retry-after"]},
    ],
)
def test_other_reports_state_other_limits(changes: dict[int, Any]) -> None:
    changed = read_line(changes)
    assert not changed.states_same_limits(read_line({}))


def test_reports_of_a_limit_that_adapts_are_never_the_same() -> None:
    adaptive = read_line({12: ["8", "4", True]})
    assert not adaptive.states_same_limits(adaptive)
