"""The commands of the two links, packed without a loop, beside `pack_command`."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from loco_otel._budgets.redis.link import LedgerLink
from loco_otel._budgets.redis.script import SHA as LEDGER_SHA
from loco_otel._config.engine_rules import EngineAddress
from loco_otel._engine.redis.batches import Batch, BatchLog
from loco_otel._engine.redis.link import Link
from loco_otel._engine.redis.modes import ModeSwitch
from loco_otel._engine.redis.resp import pack_command
from loco_otel._engine.redis.script import SHA

ADDRESS = EngineAddress.parse("redis://localhost")
OPERATIONS = [("submit", "p-1", "llm", "\u00e4gent", 1000, 0, 0, 12)]
TEXT = json.dumps(OPERATIONS, ensure_ascii=False)


@pytest.mark.parametrize("has_waiters", [True, False])
@pytest.mark.parametrize("number", [7, 12345])
def test_engine_batch_is_packed_as_any_command(number: int, has_waiters: bool) -> None:
    log = BatchLog(5.0)
    log.generation = 10
    host: Any = SimpleNamespace(has_waiters=has_waiters)
    link = Link(host, log, switch=ModeSwitch("local", 1.0), address=ADDRESS, names=("b\u00e4se", "p"), timeout=1.0)
    expected = pack_command("EVALSHA", SHA, 1, "b\u00e4se", "p", number, 10, 5000, TEXT, int(has_waiters))
    assert link._pack_batch(Batch(number, OPERATIONS, 0.0)) == expected


def test_ledger_step_is_packed_as_any_command() -> None:
    link = LedgerLink(
        ADDRESS, "b\u00e4se", ttl=5.0, timeout=1.0, name="l", list_statements=lambda: (), clock=lambda: 1.5
    )
    link._set_session("1.25")
    expected = pack_command("EVALSHA", LEDGER_SHA, 1, "b\u00e4se", link.owner, "1.25", "5", "1.500000", TEXT)
    assert link._pack_step(OPERATIONS) == expected
