"""The step script of the shared engine: grants in a second, beside the least script that shares slots."""

import itertools
import json
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import redis

from benchmarks.redis_process import Address
from loco_otel._engine.redis.batches import Batch, BatchLog, Operation, Reply
from loco_otel._engine.redis.script import SOURCE, make_base_key
from loco_otel._engine.redis.statements import make_statement
from loco_otel._engine.shared_limits import SharedLimits

_AGENTS, _WAITERS, _PAIRS = 10_000, 40_000, 16

_SEMAPHORE = """
local granted = {}
for _, id in ipairs(cjson.decode(ARGV[1])) do redis.call('ZREM', KEYS[1], id) end
for _, id in ipairs(cjson.decode(ARGV[2])) do redis.call('RPUSH', KEYS[2], id) end
while redis.call('ZCARD', KEYS[1]) < tonumber(ARGV[3]) do
  local id = redis.call('LPOP', KEYS[2])
  if not id then break end
  redis.call('ZADD', KEYS[1], 0, id)
  granted[#granted + 1] = id
end
return granted
"""
"""The least that shares slots: a set of leases, and a list of those that wait."""


def measure_throughput(at: Address) -> dict[str, float]:
    """Print and return how much slower the script grants than the least semaphore, per policy."""
    print(f"\nThe script, {_AGENTS:,} agents, {_WAITERS:,} waiters, {_PAIRS} releases and submits a call")
    ratios, least = {}, _measure_semaphore(at)
    print(f"  {'least Lua semaphore':<20}  {least:10,.0f} grants/s")
    for policy in ("load", "fair", "fifo"):
        rate, cpu = _measure_script(at, policy, _AGENTS)
        few = _measure_script(at, policy, 100)[1]
        ratios[policy] = least / rate
        print(
            f"  {policy:<20}  {rate:10,.0f} grants/s  x{least / rate:.1f} slower, {cpu:.0f} us of the server's CPU a "
            f"grant, x{cpu / few:.2f} of that with 100 agents"
        )
    return ratios


def _measure_semaphore(at: Address) -> float:
    with at.connect() as client:
        step, ids = client.register_script(_SEMAPHORE), (f"t{number}" for number in itertools.count())
        take = lambda count: json.dumps(list(itertools.islice(ids, count)))  # noqa: E731
        held = step(keys=["held", "waiting"], args=["[]", take(_WAITERS), _PAIRS])

        def step_once() -> int:
            nonlocal held
            held = step(keys=["held", "waiting"], args=[json.dumps(held), take(_PAIRS), _PAIRS])
            return len(held)

        return _count_grants(client, step_once)[0]


def _measure_script(at: Address, policy: str, agents: int) -> tuple[float, float]:
    """Return grants per second, and microseconds of the server's CPU for each."""
    with at.connect() as client:
        process = _ScriptProcess(client, f"{policy}{agents}", SharedLimits(_PAIRS, policy, 0.25, 1000))
        rng = random.Random(1)

        def submit(count: int) -> list[Operation]:
            drawn = ((f"agent-{rng.randrange(agents)}", rng.randint(500, 7000)) for _ in range(count))
            return [("submit", next(process.ids), "llm", agent, weight, 0, 0, 0) for agent, weight in drawn]

        held: list[str] = []
        for _ in range(_WAITERS // 200):
            held += process.run(submit(200))

        def step() -> int:
            nonlocal held
            held = process.run([*(("end", ticket, 0, 0, 0) for ticket in held), *submit(len(held))])
            return len(held)

        return _count_grants(client, step)


class _ScriptProcess:
    """Sends batches to the script as one process."""

    def __init__(self, client: redis.Redis, namespace: str, limits: SharedLimits) -> None:
        self._step = client.register_script(SOURCE)
        self._base = make_base_key(namespace)
        self._log = BatchLog(ttl=60.0)
        self.ids = (f"p-{number}" for number in itertools.count())
        self._log.start_sync([make_statement(limits, "llm", 0)], [], "host 1")
        self._log.accept_sync_reply(self._send(self._log.take_sync_part(0.0)), 0.0)

    def run(self, operations: list[Operation]) -> list[str]:
        """Send a batch, and return the tickets that it granted."""
        for operation in operations:
            self._log.add_operation(operation)
        reply = self._send(self._log.take_batch(0.0))
        self._log.accept_reply(reply, 0.0)
        return [grant[0] for grant in reply.granted]

    def _send(self, batch: Batch | None) -> Reply:
        assert batch is not None
        words = ["p", batch.number, self._log.generation, 60_000, json.dumps(batch.operations), 1]
        return Reply.parse(json.loads(self._step(keys=[self._base], args=words)))


def _count_grants(client: redis.Redis, step: Callable[[], int], seconds: float = 2.0) -> tuple[float, float]:
    grants, used, begin = 0, _read_cpu(client), time.perf_counter()
    while time.perf_counter() - begin < seconds:
        grants += step()
    passed = time.perf_counter() - begin
    return grants / passed, (_read_cpu(client) - used) / grants * 1e6


def _read_cpu(client: redis.Redis) -> float:
    info: Mapping[str, Any] = client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])
