"""Calls that need several of `[[resources]]`: a slot of each in one step, of those of all processes, or none."""

import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from redis_server import RedisServer
from shared_engine import read_mode, wait_decided, wait_queued, wait_until
from shared_runtime import MakeRuntime, ask, get_engine, read, take

from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.redis.script import make_base_key
from loco_otel._runtime.runtime import Runtime
from loco_otel.cli.main import main
from loco_otel.events import GateCause, Gated, GrantReason, Outcome
from loco_otel.snapshots import EngineMode

SUPPORT = Path(__file__).parents[2] / "support"

HOLDER = """
import signal, sys
from shared_engine import wait_decided
from loco_otel._config.settings import Settings
from loco_otel._runtime.runtime import Runtime
from loco_otel.events import Request
url, namespace = sys.argv[1:]
resources = [{"name": "disk", "capacity": 1}, {"name": "gpu", "capacity": 1}]
options = {"engine": url, "engine_namespace": namespace, "engine_ttl": 1.0, "capacity": 1, "resources": resources}
engine = Runtime(Settings().changed(**options)).engine
ticket = engine.create_ticket(Request("killed", 1000, ("gpu", "disk")))
engine.submit(ticket)
wait_decided(engine, ticket)
print("held", flush=True)
signal.pause()  # until it is killed
"""

BOTH = "disk", "gpu"


@pytest.fixture
def resources() -> Sequence[Mapping[str, Any]]:
    return [{"name": name, "capacity": 1} for name in BOTH]


def end(runtime: Runtime, ticket: Ticket) -> None:
    runtime.engine.release(ticket)


def is_granted(runtime: Runtime, ticket: Ticket) -> bool:
    return wait_decided(runtime.engine, ticket).state is State.GRANTED


def test_a_call_takes_a_slot_of_each_or_none(make_runtime: MakeRuntime) -> None:
    here, there = make_runtime(), make_runtime()
    narrow = take(there, "gpu")
    wide = wait_queued(ask(here, "gpu", "disk"))
    # It holds nothing while it waits.
    end(there, take(there, "disk"))
    end(there, narrow)
    assert is_granted(here, wide)
    waiting = [wait_queued(ask(there, name)) for name in BOTH]
    end(here, wide)
    assert all(is_granted(there, ticket) for ticket in waiting)
    assert wide.reason is GrantReason.SCORE


def test_the_line_that_has_waited_longest_is_next(make_runtime: MakeRuntime) -> None:
    here, there = make_runtime(), make_runtime()
    leases = [take(here, name) for name in BOTH]
    wide = wait_queued(ask(there, *BOTH))
    narrow = [wait_queued(ask(here, name)) for name in BOTH]
    # The slot of the disk goes to the one that fits, though the other has waited longer.
    end(here, leases[0])
    assert is_granted(here, narrow[0])
    end(here, narrow[0])
    # Of those that fit, it is first.
    end(here, leases[1])
    assert is_granted(there, wide)
    assert narrow[1].state is State.WAITING


def test_the_guard_keeps_a_slot_of_each(make_runtime: MakeRuntime) -> None:
    here, there = make_runtime(max_wait_ticks=1), make_runtime(max_wait_ticks=1)
    leases = [take(here, name) for name in BOTH]
    wide = wait_queued(ask(there, *BOTH))
    narrow = [wait_queued(ask(here, name)) for name in BOTH]
    end(here, leases[0])
    # One tick has passed: from now on both slots are kept for it.
    assert narrow[0].state is State.WAITING
    end(here, leases[1])
    assert is_granted(there, wide)
    assert wide.reason is GrantReason.GUARD
    assert {ticket.state for ticket in narrow} == {State.WAITING}
    end(there, wide)
    assert all(is_granted(here, ticket) for ticket in narrow)


def test_what_is_kept_of_a_rate_delays_others(
    make_runtime: MakeRuntime, resources: Sequence[Mapping[str, Any]]
) -> None:
    limits = [{**resources[0], "requests_per_minute": 1}, resources[1]]
    here, there = (make_runtime(max_wait_ticks=1, resources=limits) for _ in range(2))
    events: list[Gated] = []
    here.engine.add_listener(lambda event: events.append(event) if isinstance(event, Gated) else None)
    end(here, take(here, "disk"))
    leases = [take(here, "gpu")]
    wait_queued(ask(there, *BOTH))
    end(here, leases[0])
    # The only request of the minute is kept for the wide call, until it is granted.
    wait_queued(ask(here, "disk"))
    wait_until(lambda: any(it.resource == "disk" and it.cause is GateCause.REQUESTS for it in events))


def test_an_immediate_call_is_refused_without_a_slot_of_each(make_runtime: MakeRuntime) -> None:
    here, there = make_runtime(), make_runtime()
    take(there, "gpu")
    refused = wait_decided(here.engine, ask(here, *BOTH, timeout=0))
    assert (refused.state, refused.outcome) == (State.REJECTED, Outcome.TIMEOUT)
    take(there, "disk")


def test_a_wait_ends_by_its_timeout_or_by_cancel(make_runtime: MakeRuntime, namespace: str, client: Any) -> None:
    here, there = make_runtime(), make_runtime()
    lease = take(there, "gpu")
    late, cancelled = ask(here, *BOTH, timeout=0.05), wait_queued(ask(here, *BOTH))
    wait_until(lambda: late.outcome is Outcome.TIMEOUT)
    here.engine.cancel(cancelled)
    wait_until(lambda: not list(client.scan_iter(f"{make_base_key(namespace)}:*:ages:8:disk\tgpu", count=1000)))
    end(there, lease)
    assert is_granted(there, ask(there, *BOTH))


def test_a_pause_frees_the_slots_of_all(make_runtime: MakeRuntime) -> None:
    here, there = make_runtime(), make_runtime()
    wide = take(here, *BOTH)
    here.engine.suspend_ticket(wide)
    leases = [take(there, name) for name in BOTH]
    here.engine.resume_ticket(wide)
    wait_queued(wide)
    end(there, leases[0])
    assert read(there, "gpu").active == 1
    assert wide.state is State.WAITING
    end(there, leases[1])
    assert is_granted(here, wide)


def test_a_refusal_lowers_the_limit_of_each(make_runtime: MakeRuntime) -> None:
    adaptive = [{"name": name, "capacity_max": 4} for name in BOTH]
    here, there = (make_runtime(resources=adaptive) for _ in range(2))
    leases = [take(here, *BOTH) for _ in range(4)]
    here.engine.record_throttling(leases[0], 429, "load", 30.0, None)
    wait_queued(ask(there, "gpu"))
    for name in BOTH:
        wait_until(lambda name=name: read(here, name).capacity == 2)


def test_killed_holder_frees_all_its_slots(
    make_runtime: MakeRuntime, shared_server: RedisServer, namespace: str
) -> None:
    runtime = make_runtime(engine_ttl=1.0)
    arguments = [sys.executable, "-c", HOLDER, shared_server.url, namespace]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(SUPPORT)}) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        waiting = [wait_queued(ask(runtime, name)) for name in BOTH]
        holder.kill()
        assert all(is_granted(runtime, ticket) for ticket in waiting)


def test_a_lost_state_is_rebuilt(make_runtime: MakeRuntime, own_server: RedisServer) -> None:
    here, there = (make_runtime(engine=own_server.url, engine_ttl=1.0) for _ in range(2))
    wide = take(here, *BOTH)
    waiting = wait_queued(ask(there, *BOTH))
    own_server.call("FLUSHALL")
    wait_until(lambda: get_engine(here)._link.log.generation == get_engine(there)._link.log.generation == 2)
    narrow = wait_queued(ask(here, "disk"))
    assert waiting.state is State.WAITING
    end(here, wide)
    # Both began to wait again with the sync.
    granted = [ticket for ticket in (waiting, narrow) if ticket.state is State.GRANTED]
    wait_until(lambda: State.GRANTED in {waiting.state, narrow.state})
    assert len(granted) <= 1


def test_a_process_grants_its_share_of_each(make_runtime: MakeRuntime, own_server: RedisServer) -> None:
    limits = [{"name": "disk", "capacity": 4}, {"name": "gpu", "capacity": 2}]
    options = {"engine": own_server.url, "engine_timeout": 0.25, "resources": limits}
    here, there = (make_runtime(**options) for _ in range(2))
    for runtime in (there, here):
        end(runtime, take(runtime, *BOTH))
    own_server.kill()
    asked = [ask(here, *BOTH), ask(here, *BOTH), ask(here, "disk"), ask(here, "disk")]
    wait_until(lambda: read_mode(get_engine(here)) is EngineMode.LOCAL)
    assert [ticket.state is State.GRANTED for ticket in asked] == [True, False, True, False]


def test_a_changed_capacity_and_policy_hold_for_wide_calls(make_runtime: MakeRuntime, caplog: Any) -> None:
    here, there = make_runtime(policy="fifo"), make_runtime(policy="fifo")
    take(here, *BOTH)
    waiting = [wait_queued(ask(there, *BOTH, agent=agent)) for agent in ("b", "c")]
    more = [{"name": name, "capacity": 2} for name in BOTH]
    here.apply_settings(here.settings.changed(resources=more, policy="fair"))
    assert is_granted(there, waiting[0])
    assert waiting[1].state is State.WAITING
    wait_queued(ask(there, *BOTH))
    assert get_engine(there)._lines["disk\tgpu"].policy == "fair"
    wait_until(lambda: "policy fair, not fifo" in caplog.text)


def test_holders_of_one_process_that_block_each_other_share(make_runtime: MakeRuntime) -> None:
    here, there = make_runtime(), make_runtime()
    outer = take(here, *BOTH)
    here.engine.set_scopes(outer, ("reader",))
    inner = wait_queued(ask(here, *BOTH))
    waiting = wait_queued(ask(there, "gpu"))
    assert wait_decided(here.engine, inner, ("reader",)).state is State.GRANTED
    assert inner.reason is GrantReason.REENTRANT
    assert {*inner.lenders} == {*BOTH}
    # The slots pass to the lease that shares them.
    end(here, outer)
    assert inner.lenders == {}
    again = wait_queued(ask(there, "disk"))
    assert waiting.state is again.state is State.WAITING
    end(here, inner)
    assert is_granted(there, waiting)
    assert is_granted(there, again)


def test_a_sharer_takes_the_slot_that_is_free(make_runtime: MakeRuntime) -> None:
    here, there = make_runtime(), make_runtime()
    outer = take(here, "gpu")
    here.engine.set_scopes(outer, ("reader",))
    inner = wait_queued(ask(here, *BOTH))
    assert wait_decided(here.engine, inner, ("reader",)).state is State.GRANTED
    assert {*inner.lenders} == {"gpu"}
    waiting = wait_queued(ask(there, "disk"))
    end(here, inner)
    assert is_granted(there, waiting)
    assert wait_queued(ask(there, "gpu")).state is State.WAITING


def test_a_lease_of_another_process_ends_before_sharing(make_runtime: MakeRuntime) -> None:
    here, there = make_runtime(), make_runtime()
    outer, other = take(here, "gpu"), take(there, "disk")
    here.engine.set_scopes(outer, ("reader",))
    inner = wait_queued(ask(here, *BOTH))
    woken = threading.Event()
    here.engine.park_ticket(inner, woken.set, ("reader",))
    end(there, take(there, "llm_api"))
    assert inner.state is State.WAITING
    end(there, other)
    wait_until(woken.is_set)
    assert (inner.state, inner.reason) == (State.GRANTED, GrantReason.REENTRANT)


def test_ps_lists_a_wide_call_at_each_resource(
    make_runtime: MakeRuntime, shared_server: RedisServer, namespace: str
) -> None:
    take(make_runtime(), *BOTH)
    environ = {"LOCO_ENGINE_NAMESPACE": namespace}
    shown = " ".join(CliRunner().invoke(main, ["ps", "--engine", shared_server.url], env=environ).output.split())
    assert "disk: 1 of 1 slots held, 0 waiting" in shown
    assert "gpu: 1 of 1 slots held, 0 waiting" in shown


def test_nothing_is_left_of_a_wide_line(make_runtime: MakeRuntime, client: Any, namespace: str) -> None:
    here, there = make_runtime(policy="fair"), make_runtime(policy="fair")
    lease = take(here, *BOTH)
    there.engine.cancel(wait_queued(ask(there, *BOTH)))
    end(here, lease)
    for runtime in (here, there):
        runtime.close()
        runtime.engine.leave()
    wait_until(lambda: not list(client.scan_iter(f"{make_base_key(namespace)}:*", count=1000)))
