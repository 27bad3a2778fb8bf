"""Two versions of the step script on one state: what a rolling upgrade runs side by side.

`step_schema_N.lua` is an earlier script of the current schema, N, as joined. A script that cannot work beside it needs
the next schema number, and takes its place there: scripts of two schemas share nothing.
"""

import hashlib
import importlib.util
import json
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from patience import PATIENCE
from shared_engine import LLM, Make, wait_decided, wait_until

from loco_otel._engine.redis import engine as engine_module
from loco_otel._engine.redis import link
from loco_otel._engine.redis.engine import RedisEngine
from loco_otel._engine.redis.script import SCHEMA, SOURCE, make_base_key
from loco_otel._engine.redis.statements import make_statement
from loco_otel._engine.shared_limits import SharedLimits
from loco_otel.events import Priority, Request

CAPACITY = 3
CALLS = 40
LEFT = ("tickets", "held:", "own:", "waiters:")
"""The keys of tickets."""
FIXTURE = Path(__file__).parent / f"step_schema_{SCHEMA}.lua"


def load_older_link() -> ModuleType:
    """Return another copy of the link's module, which sends the older script."""
    spec = importlib.util.spec_from_file_location("older_link", link.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    source = FIXTURE.read_text(encoding="utf-8")
    vars(module).update(SOURCE=source, SHA=hashlib.sha1(source.encode()).hexdigest())
    return module


def test_schema_has_its_script() -> None:
    assert FIXTURE.exists(), "another schema begins with a script of its own: keep it here"


@pytest.mark.parametrize("policy", ["load", "fair", "las", "fifo"])
def test_older_script_works_beside_this_one(
    make: Make, client: Any, namespace: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = SharedLimits(CAPACITY, policy, 0.25, 1000)
    newer = make(limits, ttl=60.0)
    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "Link", load_older_link().Link)
        older = make(limits, ttl=60.0)
    assert type(older._link) is not type(newer._link)
    lock, held, peak = threading.Lock(), 0, 0

    def call(engine: RedisEngine, worker: int) -> None:
        nonlocal held, peak
        for number in range(CALLS):
            tenant = f"tenant {number % 2}" if number % 3 == 0 else None
            priority = Priority.BACKGROUND if number % 5 == 0 else Priority.NORMAL
            request = Request(f"agent {worker % 3}", 500 + 100 * number, LLM, tenant=tenant, priority=priority)
            ticket = engine.create_ticket(request)
            engine.submit(ticket)
            if number % 7 == 0:
                engine.cancel(ticket)
                continue
            wait_decided(engine, ticket)
            with lock:
                held += 1
                peak = max(peak, held)
            with lock:
                held -= 1
            engine.release(ticket)

    workers = [threading.Thread(target=call, args=((older, newer)[it % 2], it), daemon=True) for it in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE)
    assert not any(worker.is_alive() for worker in workers)
    assert 1 <= peak <= CAPACITY
    wait_until(lambda: not any(True for kind in LEFT for _ in client.scan_iter(f"loco:{{{namespace}}}:*:{kind}*")))


def test_another_schema_grants_its_processes_the_capacity(client: Any, namespace: str) -> None:
    base = make_base_key(namespace)
    assert base.endswith(f":{SCHEMA}")
    earlier = base.removesuffix(str(SCHEMA)) + str(SCHEMA - 1)
    step = client.register_script(SOURCE)
    statement = make_statement(SharedLimits(1, "fifo", 0.0, 0), "llm", 0)
    sync = ("sync", 1, 1, "", -1, [statement], [], [], "host 1", [], [])
    for number, operation in enumerate([sync, *(("submit", f"p-{it}", "llm", "a", 1000, 0, 0, 0) for it in "12")], 1):
        for key in (base, earlier):
            batch = ["p", number, 1, 60_000, json.dumps([operation]), 1]
            granted = json.loads(step(keys=[key], args=batch))[3]
            assert [it[0] for it in granted] == (["p-1"] if number == 2 else [])
    for key in (base, earlier):
        step(keys=[key], args=["p", 4, 1, 60_000, json.dumps([("leave",)]), 1])
        assert not list(client.scan_iter(f"{key}*", count=1000))
