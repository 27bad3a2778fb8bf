"""The step script against batches that come twice, late or after a loss, without a link: one effect for each."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from redis_server import RedisServer

from loco_otel._engine.redis import script
from loco_otel._engine.redis.batches import MAX_OPERATIONS, Batch, BatchLog, Operation, Reply
from loco_otel._engine.redis.kick_plan import KickPlan
from loco_otel._engine.redis.script import SOURCE, make_base_key
from loco_otel._engine.redis.statements import make_statement
from loco_otel._engine.shared_limits import SharedLimits

TTL = 60.0
WAITING, HELD = 0, 1
HOUR = 3_600_000
ONE_SLOT = SharedLimits(1, "load", 0.25, 1000)


class Process:
    """Sends batches as a process does, and keeps them so that they can be sent again."""

    def __init__(self, client: Any, namespace: str, owner: str) -> None:
        self.owner = owner
        self.log = BatchLog(TTL)
        self._step = client.register_script(SOURCE)
        self._base = make_base_key(namespace)

    def send(self, batch: Batch | None) -> Reply:
        assert batch is not None
        operations = json.dumps(batch.operations)
        words = [self.owner, batch.number, self.log.generation, round(TTL * 1000), operations, 1]
        return Reply.parse(json.loads(self._step(keys=[self._base], args=words)))

    def sync(
        self, tickets: Sequence[Operation] = (), names: Sequence[str] = ("llm",), limits: SharedLimits = ONE_SLOT
    ) -> Reply:
        self.log.start_sync([make_statement(limits, name, 0) for name in names], tickets, "host 1")
        reply = self.send(self.log.take_sync_part(0.0))
        assert self.log.accept_sync_reply(reply, 0.0)
        return reply

    def do(self, *operations: Operation) -> tuple[Batch, Reply]:
        for operation in operations:
            self.log.add_operation(operation)
        batch = self.log.take_batch(0.0)
        assert batch is not None
        reply = self.send(batch)
        self.log.accept_reply(reply, 0.0)
        return batch, reply

    def submit(self, ticket: str, line: str = "llm", agent: str = "agent") -> tuple[Batch, Reply]:
        return self.do(("submit", ticket, line, agent, 1000, 0, 0, 0))

    def beat(self, *names: str) -> tuple[Batch, Reply]:
        return self.do(("beat", names or ["llm"]))

    def end(self, ticket: str) -> tuple[Batch, Reply]:
        return self.do(("end", ticket, 0, 0, 0))


@pytest.fixture
def client(own_server: RedisServer) -> Iterator[Any]:
    with redis.Redis(port=own_server.port, decode_responses=True) as client:
        yield client


@pytest.fixture
def here(client: Any, namespace: str) -> Process:
    return Process(client, namespace, "here")


@pytest.fixture
def there(client: Any, namespace: str) -> Process:
    return Process(client, namespace, "there")


def list_granted(reply: Reply) -> list[str]:
    return [grant[0] for grant in reply.granted]


def count_used(reply: Reply) -> int:
    (line,) = reply.lines
    return line.used


def test_a_batch_that_comes_late_again_has_no_effect(here: Process) -> None:
    here.sync()
    asked, granted = here.submit("here-1")
    assert list_granted(granted) == ["here-1"]
    here.end("here-1")
    assert here.send(asked).status == "again"
    _, reply = here.submit("here-2")
    assert list_granted(reply) == ["here-2"], "the slot is not taken by what has ended"
    assert count_used(reply) == 1


def test_a_batch_whose_answer_was_lost_is_answered_again(here: Process) -> None:
    here.sync()
    asked, granted = here.submit("here-1")
    again = here.send(asked)
    assert (again.status, list_granted(again)) == ("again", list_granted(granted))


def test_a_gap_in_the_numbers_demands_a_sync(here: Process) -> None:
    here.sync()
    here.log.add_operation(("submit", "here-1", "llm", "agent", 1000, 0, 0, 0))
    assert here.log.take_batch(0.0) is not None, "lost on the way"
    _, reply = here.submit("here-2")
    assert (reply.status, list_granted(reply)) == ("sync", [])


def test_nothing_is_granted_after_a_loss_until_all_had_time(here: Process, there: Process, client: Any) -> None:
    for process in (here, there):
        process.sync()
    assert list_granted(here.submit("here-1")[1]) == ["here-1"]
    client.flushall()
    # The first to come has lost nothing of its own, and cannot know what another one holds.
    there.sync()
    _, reply = there.submit("there-1")
    assert list_granted(reply) == []
    assert reply.due > reply.now, "the reply states when to come again"
    here.sync([("here-1", "llm", "agent", 1000, 0, HELD, 0, 0)])
    assert list_granted(here.end("here-1")[1]) == []


def test_a_process_that_is_half_buried_must_sync(here: Process, there: Process, client: Any) -> None:
    here.sync()
    tickets = submit_many(here)
    expire(client, here)
    there.sync()
    assert here.beat()[1].status == "sync"
    here.sync([(ticket, "llm", "agent", 1000, 0, WAITING if it else HELD, 0, 0) for it, ticket in enumerate(tickets)])
    _, reply = here.beat()
    (line,) = reply.lines
    assert (reply.status, line.used + line.waiting) == ("ok", 301)


def test_a_process_that_stays_away_is_buried_in_the_end(here: Process, there: Process, client: Any) -> None:
    here.sync()
    submit_many(here)
    expire(client, here)
    assert there.sync().processes == 2, "200 tickets are ended in a step"
    _, reply = there.submit("there-1")
    assert (reply.processes, list_granted(reply)) == (1, ["there-1"])


def test_the_rest_of_a_burial_follows_at_once(here: Process, there: Process, client: Any) -> None:
    here.sync()
    submit_many(here, 601)
    expire(client, here)
    plan = KickPlan(there.log.ttl)
    for reply in (there.sync(), there.beat()[1], there.beat()[1]):
        assert reply.processes == 2
        plan.update(reply, now=0.0, fraction=0.0, has_waiters=True)
        assert plan.at < 0.1
    assert there.beat()[1].processes == 1


def test_an_agent_waits_apart_where_names_contain_colons(here: Process, client: Any) -> None:
    here.sync(names=["gpt", "gpt:batch"])
    here.submit("here-1", "gpt", "holder")
    here.submit("here-2", "gpt:batch", "holder")
    here.submit("here-3", "gpt:batch", "s")
    here.submit("here-4", "gpt", "batch:s")
    assert list_granted(here.end("here-1")[1]) == ["here-4"]
    assert list_granted(here.end("here-4")[1]) == []
    assert list_granted(here.end("here-2")[1]) == ["here-3"]
    here.end("here-3")
    assert not list(client.scan_iter("*:held:*"))


def test_a_beat_handles_the_resources_that_it_names(here: Process, there: Process) -> None:
    here.sync(names=[f"host-{number}" for number in range(50)])
    there.sync()
    assert [line.name for line in there.beat()[1].lines] == ["llm"]


def test_a_resource_that_nobody_names_is_removed(here: Process, there: Process, client: Any) -> None:
    here.sync(names=["held", "left", "named"])
    here.submit("here-1", "held")
    there.sync()
    age_lines(client, HOUR - 10_000)
    there.sync()
    assert list_lines(client) == {"held", "left", "named", "llm"}, "an hour has not passed"
    age_lines(client, 11_000)
    here.beat("named")
    there.sync()
    assert list_lines(client) == {"held", "named", "llm"}
    assert not list(client.scan_iter("*:line:left"))
    assert [line.used for line in here.beat("held")[1].lines] == [1]


def test_a_process_whose_resource_was_removed_must_sync(here: Process, client: Any) -> None:
    """Of a machine that slept: each process has named its resources, and the server's clock has passed an hour."""
    here.sync(names=["one", "two"])
    age_lines(client, HOUR + 1)
    here.do(("state", [make_statement(ONE_SLOT, "three", 0)]))
    assert list_lines(client) == {"three"}
    assert here.beat("one", "two")[1].status == "sync"
    here.sync(names=["one", "two"])
    assert list_granted(here.submit("here-1", "one")[1]) == ["here-1"]


def list_lines(client: Any) -> set[str]:
    (key,) = client.scan_iter("*:lines")
    return {*client.zrange(key, 0, -1)}


def age_lines(client: Any, milliseconds: int) -> None:
    """Let time pass since resources were named."""
    (key,) = client.scan_iter("*:lines")
    for name in client.zrange(key, 0, -1):
        client.zincrby(key, -milliseconds, name)


def submit_many(process: Process, count: int = 301) -> list[str]:
    """Request more slots than tickets are ended in a step, which is 200."""
    tickets = [f"{process.owner}-{number}" for number in range(count)]
    for ticket in tickets:
        process.log.add_operation(("submit", ticket, "llm", "agent", 1000, 0, 0, 0))
    for _ in range(0, count, MAX_OPERATIONS):
        process.do()
    return tickets


def expire(client: Any, process: Process) -> None:
    """Let the lease time of a process end."""
    (key,) = client.scan_iter("*:processes")
    client.zadd(key, {process.owner: 1})


def test_a_constant_has_one_value_in_all_parts() -> None:
    parts = [path.read_text(encoding="utf-8") for path in Path(script.__file__).parent.glob("lua/*.lua")]
    declared = [name for part in parts for names, _ in script._CONSTANTS.findall(part) for name in names.split(",")]
    names = [name.strip() for name in declared]
    assert {"STATE", "SHARED"} <= {*names}
    assert len(names) == len({*names})
