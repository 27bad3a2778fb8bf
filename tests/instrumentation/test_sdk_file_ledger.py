"""Budgets of patched calls with a ledger in a file."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from budgeted_calls import BOUND, CALLERS, PRICES, TOKEN, call_at_once, compute_cost, read_budget
from patience import PATIENCE
from sdk_calls import CHAT, Sdk, each_sdk
from sdk_scheduling import Scheduled
from sdk_server import LlmServer

import loco_otel
from loco_otel import ConfigurationError, LedgerError
from loco_otel._budgets.sqlite_ledger import LedgerView
from loco_otel.events import BudgetReached, Spent
from loco_otel.money import MICRO


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    thief = sqlite3.connect(path, isolation_level=None)
    thief.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        thief.close()


@each_sdk
def test_shared_ledger_never_overspends(sdk: Sdk, server: LlmServer, priced: Any, ledger: Path) -> None:
    limit = 10 * BOUND * TOKEN
    scheduling = priced(3, budgets=f"*={limit / MICRO}", ledger=str(ledger))
    ends = call_at_once(sdk, server, CALLERS)
    scheduling.settled(CALLERS)
    assert ends["answered"] == len(server.requests()) >= 10
    assert read_budget().spent == compute_cost(scheduling) <= limit
    assert read_budget().reserved == 0


def test_restart_keeps_spending(server: LlmServer, scheduled: Scheduled, ledger: Path) -> None:
    for _ in range(2):
        scheduled(ledger=ledger)
        loco_otel.configure(prices=PRICES, budgets="*=1")
        with server.openai() as client:
            client.chat.completions.create(**CHAT, max_tokens=BOUND)
    (totals,) = loco_otel.spend()
    assert totals.calls == 2
    assert read_budget().spent == totals.usd


@pytest.mark.parametrize("on_error", ["closed", "open"])
def test_unusable_ledger_refuses_or_admits(
    on_error: str, server: LlmServer, priced: Any, ledger: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scheduling = priced(1, budgets="*=1", ledger=str(ledger), ledger_on_error=on_error)
    with locked(ledger), server.openai() as client:
        if on_error == "closed":
            refusal = r"database is locked; the call was not sent \(LOCO_LEDGER_ON_ERROR decides"
            with pytest.raises(LedgerError, match=refusal) as raised:
                client.chat.completions.create(**CHAT, max_tokens=BOUND)
            assert raised.value.agent == "unknown"
        else:
            client.chat.completions.create(**CHAT, max_tokens=BOUND)
    scheduling.settled(1)
    assert len(server.requests()) == (on_error == "open")
    # What the call took was kept, and is spent now.
    assert read_budget().spent == compute_cost(scheduling)
    assert read_budget().reserved == 0
    assert (read_budget().spent > 0) is (on_error == "open")
    assert all("sk-" not in record.getMessage() for record in caplog.records)


def test_charge_is_kept_when_the_ledger_is_locked(
    server: LlmServer, priced: Any, ledger: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scheduling = priced(1, budgets="*=0.07", ledger=str(ledger))
    loco_otel.configure(budgets=[{"scope": "all", "limit": 0.07, "thresholds": [1]}])
    with server.openai() as client:
        stream = client.chat.completions.create(**CHAT, max_tokens=BOUND, stream=True)
        with locked(ledger):
            for _ in stream:
                pass
            scheduling.settled(1)
    assert read_budget().spent == sum(event.spending.usd or 0 for event in scheduling.seen.of(Spent)) > 0
    assert read_budget().reserved == 0
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "ledger write failed; costs stay in memory, retried (check LOCO_LEDGER)"
    ]
    assert [event.percent for event in scheduling.seen.of(BudgetReached)] == [1], "reported when it was spent"


def test_invalid_ledger_stops_loco_otel_with_its_name(ledger: Path) -> None:
    ledger.write_bytes(b"not a database, and long enough to be looked at" * 50)
    with pytest.raises(ConfigurationError, match=r"ledger=.*ledger\.db: .* file is not a database"):
        loco_otel.configure(ledger=str(ledger))


def test_killed_stream_keeps_spending_and_no_reservation(server: LlmServer, ledger: Path) -> None:
    program = f"""
        import loco_otel, sys
        from openai import OpenAI
        loco_otel.install()
        loco_otel.configure(prices={PRICES!r}, budgets="*=1", ledger={str(ledger)!r}, max_hold=60)
        client = OpenAI(api_key="k", base_url={server.url("openai")!r})
        ask = dict(model="gpt-4o", max_tokens={BOUND}, messages=[dict(role="user", content="hi there")])
        client.chat.completions.create(**ask)
        for _ in client.chat.completions.create(**ask, stream=True):
            print("reading", flush=True)
            sys.stdin.read()
    """
    victim = subprocess.Popen(
        [sys.executable, "-c", dedent(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert victim.stdout is not None
    assert victim.stdout.readline() == "reading\n"
    now = time.time()
    view = LedgerView(ledger)
    (before,) = view.read_statuses(now)
    victim.kill()
    victim.communicate(timeout=PATIENCE)
    (after,) = view.read_statuses(now + 61)
    view.close()
    assert before.reserved == BOUND * TOKEN
    assert (after.reserved, after.spent) == (0, before.spent)
    assert after.spent > 0
