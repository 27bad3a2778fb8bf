"""Several engines on one server: one order for all, and what each does when the server fails."""

import _thread
import logging
import os
import socket
import threading
import time
from contextlib import closing
from math import inf
from typing import Any

import pytest
from patience import PATIENCE
from redis_server import RedisServer
from shared_engine import Make, acquire, read_mode, submit, wait_decided, wait_queued, wait_until

from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.redis.batches import WINDOW
from loco_otel._engine.redis.connection import Connection
from loco_otel._engine.redis.engine import RedisEngine
from loco_otel._engine.redis.resp import pack_command
from loco_otel._engine.redis.script import make_base_key
from loco_otel._engine.shared_limits import SharedLimits
from loco_otel.events import GrantReason, Outcome, Spending, Usage
from loco_otel.snapshots import EngineMode
from loco_otel.testing import RecordingListener


def test_one_slot_is_held_once_among_all(make: Make) -> None:
    here, there = make(), make()
    first = acquire(here)
    second = wait_queued(submit(there))
    here.release(first)
    assert wait_decided(there, second).state is State.GRANTED
    there.release(second)


def test_capacity_zero_grants_no_slot(make: Make) -> None:
    here, there = make(SharedLimits(0, "load", 0.25, 1000)), make(SharedLimits(0, "load", 0.25, 1000))
    waiters = [wait_queued(submit(engine)) for engine in (here, there)]
    here.restate_limits({"llm_api": SharedLimits(2, "load", 0.25, 1000)})
    for engine, waiter in zip((here, there), waiters, strict=True):
        assert wait_decided(engine, waiter).state is State.GRANTED


def test_an_idle_process_learns_of_other_limits(make: Make) -> None:
    here, there = make(ttl=1.0), make(ttl=1.0)
    for engine in (here, there):
        engine.release(acquire(engine))
    here.restate_limits({"llm_api": SharedLimits(2, "load", 0.25, 1000)})
    wait_until(lambda: there.take_snapshot().resources[0].capacity == 2)


def test_waiters_of_all_processes_form_one_line(make: Make) -> None:
    limits = SharedLimits(1, "fifo", 0.0, 0)
    engines = [make(limits) for _ in range(3)]
    lease: Ticket = acquire(engines[0])
    waiters = [wait_queued(submit(engines[number % 3], f"agent{number}")) for number in range(6)]
    order = []
    for number, ticket in enumerate(waiters):
        engines[0 if number == 0 else (number - 1) % 3].release(lease)
        lease = wait_decided(engines[number % 3], ticket)
        order.append(sum(each.state is State.GRANTED for each in waiters))
    assert order == [1] * 6


def test_a_grant_states_what_was_compared(make: Make) -> None:
    here, there = make(), make()
    listener = RecordingListener()
    there.add_listener(listener)
    lease = acquire(here)
    light, heavy = submit(there, "light"), submit(there, "heavy", 9000)
    wait_queued(light)
    wait_queued(heavy)
    here.release(lease)
    wait_decided(there, heavy)
    there.flush()
    granted = listener.events[-1]
    assert (granted.reason, granted.policy, granted.alpha) == (GrantReason.SCORE, "load", 0.25)  # type: ignore[union-attr]
    assert (granted.score, granted.queue_weight, granted.queue_age) == (1.0, 9000, 1)  # type: ignore[union-attr]
    assert light.state is State.WAITING


def test_a_request_that_may_not_wait_is_decided_at_once(make: Make) -> None:
    here, there = make(), make()
    lease = wait_decided(here, submit(here, timeout=0))
    assert lease.state is State.GRANTED
    assert wait_decided(there, submit(there, timeout=0)).outcome is Outcome.TIMEOUT
    here.release(lease)


def test_a_waiter_that_gives_up_leaves_the_line(make: Make) -> None:
    here, there = make(), make()
    lease = acquire(here)
    early, late = wait_queued(submit(there)), wait_queued(submit(there))
    there.cancel(early)
    here.release(lease)
    assert wait_decided(there, late).state is State.GRANTED


def test_last_waiter_that_leaves_ends_the_check_for_idle_leases(make: Make) -> None:
    """A check that nothing awaits would be due for ever, and the timer would run without a pause."""
    engine = make()
    lease = acquire(engine)
    lease.idle_after = 3600.0
    waiter = wait_queued(submit(engine))
    engine.park_ticket(waiter, lambda: None, ())
    assert engine._core.deadlines.idle_check_at < inf
    engine.cancel(waiter)
    assert engine._core.deadlines.idle_check_at == inf
    engine.release(lease)


def test_a_burst_within_the_capacity_is_no_backpressure(make: Make) -> None:
    """Until the first answer a request waits, though slots are free."""
    engine = make(SharedLimits(8, "load", 0.25, 0), max_waiters=1)
    tickets = [wait_decided(engine, submit(engine)) for _ in range(8)]
    assert {ticket.state for ticket in tickets} == {State.GRANTED}
    more = [submit(engine) for _ in range(3)]
    wait_until(lambda: sum(ticket.outcome is Outcome.BACKPRESSURE for ticket in more) == 2)
    assert more[0].state is State.WAITING


class CountedTickets(dict[int, Ticket]):
    """Counts the tickets that are listed."""

    listed = 0

    def values(self) -> Any:
        self.listed += len(self)
        return super().values()


def test_a_bound_of_waiters_lists_no_tickets(make: Make) -> None:
    """Each request that has to wait would take time in proportion to all that do, under the lock."""
    engine = make(max_waiters=10_000)
    acquire(engine)
    waiters = [submit(engine) for _ in range(2000)]
    wait_until(lambda: not any(ticket.is_unanswered for ticket in waiters))
    engine._core.tickets = counted = CountedTickets(engine._core.tickets)
    for _ in range(10):
        wait_queued(submit(engine))
    assert counted.listed < 2000


def test_a_correction_reaches_the_policy_of_all(make: Make, client: Any, namespace: str) -> None:
    engine = make(SharedLimits(1, "fair", 0.0, 0))
    other = acquire(engine, "b")
    lease = submit(engine, "a")
    engine.release(other)
    wait_decided(engine, lease)
    keep = wait_queued(submit(engine, "a"))
    engine.release(lease, Spending(Usage(1, 1), 5000, "m"))
    wait_decided(engine, keep)
    (key,) = client.scan_iter(f"{make_base_key(namespace)}:*:agents:7:llm_api", count=1000)
    assert client.hget(key, "a").split("|")[0] == "6000000"


def test_a_pause_frees_the_slot_for_another_process(make: Make) -> None:
    here, there = make(), make()
    lease = acquire(here)
    waiting = wait_queued(submit(there))
    here.suspend_ticket(lease)
    wait_decided(there, waiting)
    here.resume_ticket(lease)
    wait_queued(lease)
    there.release(waiting)
    assert wait_decided(here, lease).state is State.GRANTED


def test_the_newest_limits_are_in_force_for_all(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    here = make(SharedLimits(1, "load", 0.25, 1000))
    leases = [acquire(here)]
    waiting = wait_queued(submit(here))
    there = make(SharedLimits(2, "load", 0.25, 1000))
    there_waiting = wait_queued_or_granted(there)
    wait_decided(here, waiting)
    here.restate_limits({"llm_api": SharedLimits(3, "load", 0.25, 1000)})
    wait_decided(there, there_waiting)
    wait_until(lambda: "capacity 3, not 2" in caplog.text)
    wait_until(lambda: there.take_snapshot().resources[0].capacity == 3)
    assert caplog.text.count("capacity 3, not 2") == 1
    assert leases[0].state is State.GRANTED


def wait_queued_or_granted(engine: RedisEngine) -> Ticket:
    ticket = submit(engine)
    wait_until(lambda: not ticket.is_unanswered)
    return ticket


def test_holders_that_wait_for_each_other_share_a_slot(make: Make) -> None:
    """Of two processes: only once the leases of both are blocked."""
    limits = SharedLimits(2, "load", 0.25, 0)
    here, there = make(limits), make(limits)
    outer_here, outer_there = acquire(here), acquire(there)
    here.set_scopes(outer_here, ("here",))
    there.set_scopes(outer_there, ("there",))
    inner_here = submit(here)
    here.park_ticket(inner_here, lambda: None, ("here",))
    wait_queued(inner_here)
    inner_there = submit(there)
    woken = threading.Event()
    there.park_ticket(inner_there, woken.set, ("there",))
    wait_until(lambda: State.GRANTED in {inner_here.state, inner_there.state})
    sides = [(here, inner_here, outer_here), (there, inner_there, outer_there)]
    sides.sort(key=lambda side: side[1].state is not State.GRANTED)
    (engine, shared, lender), (other, waiting, last) = sides
    assert shared.reason is GrantReason.REENTRANT
    engine.release(lender)  # its slot passes to the lease that shares it
    engine.release(shared)
    wait_decided(other, waiting)
    assert waiting.reason is GrantReason.SCORE
    other.release(waiting)
    other.release(last)
    again = [acquire(here), acquire(there)]
    assert wait_queued(submit(here)).state is State.WAITING
    assert {ticket.state for ticket in again} == {State.GRANTED}


def test_nothing_is_left_after_the_last_process(make: Make, client: Any, namespace: str) -> None:
    engines = [make() for _ in range(2)]
    lease = acquire(engines[0])
    wait_queued(submit(engines[1]))
    for engine in engines:
        engine.close()
    engines[0].release(lease)
    wait_until(lambda: not list(client.scan_iter(f"loco:{{{namespace}}}:*", count=1000)))


def test_an_end_of_the_program_frees_its_slots_at_once(make: Make) -> None:
    here, there = make(ttl=60.0), make(ttl=60.0)
    acquire(here)
    waiting = wait_queued(submit(there))
    here.leave()
    assert wait_decided(there, waiting).state is State.GRANTED


def test_end_of_the_program_sends_what_a_full_window_held_back(make: Make, client: Any, namespace: str) -> None:
    here = make(ttl=60.0)
    acquire(here)
    assert list(client.scan_iter(f"loco:{{{namespace}}}:*:own:*"))
    client.client_pause(500)  # so that no batch is answered before the process leaves
    for _ in range(WINDOW + 1):
        submit(here)
    here._link.leave()
    here._link.join(PATIENCE)
    assert not list(client.scan_iter(f"loco:{{{namespace}}}:*:own:*"))


def test_a_flushed_script_is_loaded_again(make: Make, client: Any) -> None:
    engine = make()
    engine.release(acquire(engine))
    client.script_flush()
    engine.release(acquire(engine))
    assert read_mode(engine) is EngineMode.REMOTE


def test_a_killed_connection_is_opened_again(make: Make, client: Any) -> None:
    here, there = make(), make()
    lease = acquire(here)
    waiting = wait_queued(submit(there))
    client.client_kill_filter(_type="normal", skipme=True)
    here.release(lease)
    assert wait_decided(there, waiting).state is State.GRANTED
    assert read_mode(here) is EngineMode.REMOTE


def test_a_grant_goes_to_the_connection_of_the_last_sync(
    make: Make, client: Any, shared_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has not noticed yet that an older one is cut, and serves those first that wait for longest."""
    keys: list[str] = []
    send = Connection.send_command

    def send_command(connection: Connection, *arguments: str | int) -> None:
        keys.append(str(arguments[1]))
        send(connection, *arguments)

    monkeypatch.setattr(Connection, "send_command", send_command)
    here, there = make(), make()
    lease = acquire(here)
    waiting = wait_queued(submit(there))
    (key,) = {key for key in keys if there.owner in key}
    with closing(socket.create_connection(("127.0.0.1", shared_server.port))) as cut:
        cut.sendall(pack_command("BLPOP", key, 0))
        name = "{}:{}".format(*cut.getsockname()[:2])
        wait_until(lambda: any(it["addr"] == name and "b" in it["flags"] for it in client.client_list()))
        for connection in client.client_list():
            if connection["addr"] != name and int(connection["id"]) != client.client_id():
                client.client_kill_filter(_id=connection["id"])
        wait_until(lambda: generation(there) == generation(here) == 2)
        wait_until(lambda: here._link.log.is_synced and there._link.log.is_synced)
        here.release(lease)
        assert wait_decided(there, waiting).state is State.GRANTED


def test_a_lost_state_is_rebuilt_from_the_processes(make: Make, own_server: RedisServer) -> None:
    here, there = make(url=own_server.url, ttl=1.0), make(url=own_server.url, ttl=1.0)
    lease = acquire(here)
    waiting = wait_queued(submit(there))
    own_server.call("FLUSHALL")
    wait_until(lambda: generation(there) == generation(here) == 2)
    time.sleep(0.7)  # longer than the state learns: the slot is still held
    assert waiting.state is State.WAITING
    here.release(lease)
    assert wait_decided(there, waiting).state is State.GRANTED


def generation(engine: RedisEngine) -> int:
    return engine._link.log.generation


def test_a_script_that_failed_starts_a_new_epoch(make: Make, client: Any, namespace: str) -> None:
    engine = make(ttl=1.0)
    lease = acquire(engine)
    waiting = wait_queued(submit(engine))
    epoch = client.hget(f"{make_base_key(namespace)}:config", "epoch")
    client.delete(f"{make_base_key(namespace)}:{epoch}:tops:7:llm_api")
    client.set(f"{make_base_key(namespace)}:{epoch}:tops:7:llm_api", "of another type")
    engine.release(lease)
    assert wait_decided(engine, waiting).state is State.GRANTED
    assert client.hget(f"{make_base_key(namespace)}:config", "epoch") != epoch


def test_an_expired_process_is_buried(make: Make, shared_server: RedisServer) -> None:
    here, there = make(ttl=1.0), make(ttl=1.0)
    acquire(here)
    waiting = wait_queued(submit(there))
    here._link._is_closing = True  # it ends without a word
    here._link._wake_reader()
    assert wait_decided(there, waiting).state is State.GRANTED


class Fault:
    """Ways in which a server is away."""

    def __init__(self, server: RedisServer, kind: str) -> None:
        self.begin = server.kill if kind == "killed" else server.freeze
        self.end = server.start if kind == "killed" else server.thaw


@pytest.mark.parametrize("kind", ["killed", "frozen"])
def test_local_mode_grants_the_share(
    make: Make, own_server: RedisServer, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "loco_otel")
    limits = SharedLimits(4, "load", 0.25, 0)
    engines = [make(limits, url=own_server.url, timeout=0.25, ttl=2.0) for _ in range(2)]
    for engine in engines:
        engine.release(acquire(engine))
    wait_until(lambda: all(processes(engine) == 2 for engine in engines))
    fault = Fault(own_server, kind)
    fault.begin()
    tickets = [submit(engines[0]) for _ in range(3)]
    wait_until(lambda: sum(ticket.state is State.GRANTED for ticket in tickets) == 2)
    assert read_mode(engines[0]) is EngineMode.LOCAL
    assert engines[0].take_snapshot().resources[0].capacity == 2

    def list_absences() -> list[str]:
        return [text for text in caplog.messages if "LOCO_ENGINE" in text and "does not answer" in text]

    wait_until(lambda: bool(list_absences()))  # logged after the change of the mode
    assert "at most 2 concurrent calls of llm_api" in list_absences()[0]
    assert len(list_absences()) <= 2  # one for each engine
    fault.end()
    wait_until(lambda: read_mode(engines[0]) is EngineMode.REMOTE)
    assert wait_decided(engines[0], tickets[2]).state is State.GRANTED
    for ticket in tickets:
        engines[0].release(ticket)


def processes(engine: RedisEngine) -> int:
    state = engine.take_snapshot().engine
    assert state is not None
    engine.release(acquire(engine))
    return state.processes


def test_closed_mode_grants_nothing_until_the_server_is_back(make: Make, own_server: RedisServer) -> None:
    engine = make(url=own_server.url, timeout=0.25, on_error="closed", ttl=1.0)
    engine.release(acquire(engine))
    own_server.kill()
    patient, hasty = submit(engine), submit(engine, timeout=0.5)
    assert wait_decided(engine, hasty).outcome is Outcome.TIMEOUT
    assert read_mode(engine) is EngineMode.CLOSED
    assert patient.state is State.WAITING
    own_server.start()
    assert wait_decided(engine, patient).state is State.GRANTED


def test_open_mode_grants_everything(make: Make, own_server: RedisServer) -> None:
    engine = make(url=own_server.url, timeout=0.25, on_error="open", ttl=1.0)
    lease = acquire(engine)
    own_server.kill()
    more = [wait_decided(engine, submit(engine)) for _ in range(3)]
    assert {ticket.state for ticket in more} == {State.GRANTED}
    assert read_mode(engine) is EngineMode.OPEN
    for ticket in (lease, *more):
        engine.release(ticket)


def test_a_server_that_was_never_there_is_away(make: Make) -> None:
    engine = make(url="redis://127.0.0.1:1", timeout=0.25)
    assert wait_decided(engine, submit(engine)).state is State.GRANTED
    assert read_mode(engine) is EngineMode.LOCAL


def test_a_forked_child_is_another_process(make: Make) -> None:
    engine = make(SharedLimits(2, "load", 0.25, 0))
    lease = acquire(engine)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            ticket = acquire(engine)
            snapshot = engine.take_snapshot()
            os.write(write, f"{ticket.owner != lease.owner} {snapshot.resources[0].active}".encode())
            engine.release(ticket)
            engine.leave()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100) == b"True 1"
    assert acquire(engine).state is State.GRANTED


def test_a_finalizer_and_an_interrupt_lose_nothing(make: Make) -> None:
    engine = make()
    lease = acquire(engine)
    waiting = wait_queued(submit(engine))
    engine._busy = True  # an interrupt ended an operation half way
    engine.abandon_ticket(lease)
    assert wait_decided(engine, waiting).state is State.GRANTED
    assert engine.take_snapshot().recoveries == 1


def test_missing_reader_is_started_by_a_later_call(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    engine = make(SharedLimits(2, "load", 0.25, 1000))
    with monkeypatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", fail)
        first = submit(engine)
    second = submit(engine)
    for ticket in (first, second):
        assert wait_decided(engine, ticket).state is State.GRANTED
        engine.release(ticket)
    assert "can't be started, calls wait until a later one starts it: can't start new thread" in caplog.text


def test_call_can_end_after_its_process_has_left(make: Make) -> None:
    engine = make()
    ticket = acquire(engine)
    engine.close()
    engine.leave()
    engine.release(ticket)
    assert ticket.state.is_ended


def test_agent_of_any_name_waits_at_the_server(make: Make) -> None:
    name = "\ud800 \x00|\u20ac\U0001f680"
    here, there = make(), make(SharedLimits(1, "fair", 0.25, 1000, shares={name: 2000}), timeout=1.0)
    first = acquire(here)
    second = wait_queued(submit(there, name))
    here.release(first)
    assert wait_decided(there, second).state is State.GRANTED
    state = there.take_snapshot().engine
    assert state is not None
    assert (state.mode, state.errors) == (EngineMode.REMOTE, ())
    there.release(second)
