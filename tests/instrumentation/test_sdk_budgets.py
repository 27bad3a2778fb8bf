"""Budgets of patched calls: what is refused, let through, sent with another model, and what it costs in the end."""

import asyncio
import contextvars
import gc
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from patience import PATIENCE
from sdk_calls import CHAT, MESSAGE, Sdk, each, each_sdk, now
from sdk_scheduling import Scheduled, Scheduling
from sdk_server import LlmServer

import loco_otel
from loco_otel import BudgetExceededError, ConfigurationError, LedgerError
from loco_otel._budgets.memory_ledger import MemoryLedger
from loco_otel._budgets.prices import Prices
from loco_otel._budgets.sqlite_ledger import LedgerView
from loco_otel._config.settings import Settings
from loco_otel._runtime import process
from loco_otel.events import BudgetExceeded, BudgetReached, Outcome, Rejected, Spent
from loco_otel.money import MICRO, Action, BudgetStatus

PRICES = {
    "gpt-4o": {"input": 0, "output": 1000},
    "gpt-4o-mini": {"input": 0, "output": 10},
    "claude-sonnet-5": {"input": 0, "output": 1000},
}
"""In USD per million tokens: a token of an answer is a thousand micro-USD, or ten."""
BOUND = 64
"""Tokens that each call's answer may have, and that are reserved for it: more than it will have."""
TOKEN = 1000
CALLERS = 64


@pytest.fixture
def priced(scheduled: Scheduled) -> Iterator[Any]:
    """Patch the SDKs under budgets; `**settings` as `configure` takes them."""

    def schedule(capacity: object = "auto", **settings: Any) -> Scheduling:
        scheduling = scheduled(capacity=capacity)
        loco_otel.configure(prices=PRICES, **settings)
        return scheduling

    return schedule


def bounded(sdk: Sdk) -> dict[str, Any]:
    return {"max_tokens": BOUND} if sdk.name == "openai" else {}  # Anthropic's call has it anyway


def ask(sdk: Sdk, client: Any, bound: int) -> Any:
    if sdk.name == "openai":
        return client.chat.completions.create(**CHAT, max_tokens=bound)
    return client.messages.create(**{**MESSAGE, "max_tokens": bound})


def only() -> BudgetStatus:
    (standing,) = loco_otel.budgets()
    return standing


def cost(scheduling: Scheduling) -> int:
    """What all calls cost, by their answers."""
    return sum((event.spending.usage or (0, 0))[1] * TOKEN for event in scheduling.seen.of(Spent))


def refused_or_answered(sdk: Sdk, server: LlmServer, callers: int, bound: int = BOUND) -> Counter[str]:
    """Make a number of calls at the same moment."""
    ends: Counter[str] = Counter()

    async def one(client: Any) -> None:
        try:
            await now(ask(sdk, client, bound))
        except BudgetExceededError:
            ends["refused"] += 1
        else:
            ends["answered"] += 1

    if sdk.is_async:

        async def all_of_them() -> None:
            async with sdk.client(server, max_retries=0) as client:
                await asyncio.gather(*(one(client) for _ in range(callers)))

        asyncio.run(all_of_them())
        return ends
    barrier = threading.Barrier(callers)
    with sdk.client(server, max_retries=0) as client:

        def work() -> None:
            barrier.wait()
            sdk.run(one(client))

        threads = [threading.Thread(target=work) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return ends


@each_sdk
@pytest.mark.parametrize("capacity", ["auto", 3])
def test_callers_at_a_barrier_never_overspend(sdk: Sdk, capacity: object, server: LlmServer, priced: Any) -> None:
    limit = 10 * BOUND * TOKEN
    scheduling = priced(capacity, budgets=f"*={limit / MICRO}")
    ends = refused_or_answered(sdk, server, CALLERS)
    scheduling.settled(CALLERS)
    standing = only()
    assert ends.total() == CALLERS
    assert ends["answered"] == len(server.requests()), "what is refused is not sent"
    assert ends["answered"] >= 10
    assert standing.spent == cost(scheduling) <= limit
    assert standing.reserved == 0
    if ends["refused"]:
        rejected = scheduling.seen.of(Rejected)
        assert {event.outcome for event in rejected} == {Outcome.BUDGET}
        assert len(rejected) == ends["refused"]


@each_sdk
def test_overspending_is_bounded_by_the_errors_of_estimates(sdk: Sdk, server: LlmServer, priced: Any) -> None:
    limit = 5 * TOKEN
    scheduling = priced(2, budgets=f"*={limit / MICRO}")
    # Nothing is expected of an answer: it has more tokens than the call permits.
    ends = refused_or_answered(sdk, server, CALLERS, bound=1)
    scheduling.settled(CALLERS)
    spendings = [event.spending.usd or 0 for event in scheduling.seen.of(Spent)]
    beyond = sorted((spent - TOKEN for spent in spendings), reverse=True)
    assert ends["refused"] > 0
    assert limit < only().spent == sum(spendings) <= limit + sum(beyond[:2])


class _entered:  # noqa: N801 - a verb, as of contextlib
    """A client of either colour, closed at the end."""

    def __init__(self, sdk: Sdk, server: LlmServer) -> None:
        self._client = sdk.client(server, max_retries=0)

    async def __aenter__(self) -> Any:
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await now(self._client.close())


def test_refusal_names_the_budget_and_its_state(server: LlmServer, priced: Any) -> None:
    scheduling = priced(budgets="analyst=0.07,default=5", budget_period="day")
    with loco_otel.as_agent("analyst"), server.openai() as client:
        client.chat.completions.create(**CHAT, max_tokens=BOUND)
        with pytest.raises(BudgetExceededError) as refused:
            client.chat.completions.create(**CHAT, max_tokens=BOUND)
    error = refused.value
    standing = next(it for it in loco_otel.budgets() if it.key.key == "analyst")
    assert (error.agent, error.scope, error.key, error.unit, error.period) == (
        "analyst", "agent", "analyst", "usd", "day",
    )  # fmt: skip
    assert (error.limit, error.reserved, error.estimate) == (0.07, 0, 0.064)
    assert error.spent == standing.spent / MICRO > 0
    assert error.resets_at == standing.resets_at
    assert str(error).startswith("A call of 'analyst' is estimated at $0.064, and the budget of agent 'analyst' has no")
    assert len(server.requests()) == 1
    (span,) = [span for span in scheduling.spans("acquire") if span.attributes["loco.outcome"] == "budget"]
    (told,) = [event for event in span.events if event.name == "loco.budget"]
    assert told.attributes["loco.budget.action"] == "reject"
    assert told.attributes["loco.budget.key"] == "analyst"
    assert not span.status.is_ok
    # Others have budgets of their own.
    with loco_otel.as_agent("writer"), server.openai() as client:
        client.chat.completions.create(**CHAT, max_tokens=BOUND)


def test_request_above_the_budget_is_refused_without_a_wait(server: LlmServer, priced: Any) -> None:
    scheduling = priced(1, budgets="*=0.05")
    refused: list[BudgetExceededError] = []

    def call() -> None:
        with server.openai() as client, pytest.raises(BudgetExceededError) as raised:
            client.chat.completions.create(**CHAT, max_tokens=BOUND)
        refused.append(raised.value)

    with loco_otel.slot("holder"):
        thread = threading.Thread(target=call)
        thread.start()
        thread.join(PATIENCE)
    assert refused
    assert server.requests() == []
    assert [event.outcome for event in scheduling.seen.of(Rejected)] == [Outcome.BUDGET]


def test_waiter_is_refused_once_the_budget_is_used_up(server: LlmServer, priced: Any) -> None:
    scheduling = priced(1, budgets=f"*={BOUND * TOKEN * 2 / MICRO}")
    ends: Counter[str] = Counter()

    def call() -> None:
        with server.openai(max_retries=0) as client:
            try:
                client.chat.completions.create(**CHAT, max_tokens=BOUND)
            except BudgetExceededError:
                ends["refused"] += 1
            else:
                ends["answered"] += 1

    server.script({"type": "delay", "seconds": 0.3, "times": 1})
    first = threading.Thread(target=call)
    first.start()
    while not scheduling.active():
        threading.Event().wait(0.01)
    rest = [threading.Thread(target=call) for _ in range(3)]
    for thread in rest:
        thread.start()
    while scheduling.waiting() < 3:
        threading.Event().wait(0.01)
    # While they wait, somebody lowers the limit to what is under way.
    loco_otel.configure(budgets=f"*={BOUND * TOKEN / MICRO}")
    for thread in (first, *rest):
        thread.join(PATIENCE)
    assert ends == {"answered": 1, "refused": 3}
    assert len(server.requests()) == 1


def test_waiters_for_tokens_are_refused_by_a_used_up_budget(server: LlmServer, priced: Any) -> None:
    scheduling = priced(4, budgets="*=1000", tokens_per_minute=60_000)
    ends: Counter[str] = Counter()

    def call(words: int) -> None:
        messages = [{"role": "user", "content": "sail " * words}]
        with server.openai(max_retries=0) as client:
            try:
                client.chat.completions.create(**{**CHAT, "messages": messages})
            except BudgetExceededError:
                ends["refused"] += 1
            else:
                ends["answered"] += 1

    call(20_000)
    # The first needs a full bucket. For the second there are tokens enough: only the first keeps it waiting.
    waiters = [threading.Thread(target=call, args=(words,)) for words in (80_000, 1)]
    for number, waiter in enumerate(waiters, 1):
        waiter.start()
        while scheduling.waiting() < number:
            threading.Event().wait(0.01)
    loco_otel.configure(budgets="*=0.001")
    for waiter in waiters:
        waiter.join(PATIENCE)
    assert ends == {"answered": 1, "refused": 2}
    assert len(server.requests()) == 1


def test_alert_admits_calls_and_is_reported(server: LlmServer, priced: Any) -> None:
    scheduling = priced(budgets="analyst=0.01", budget_on_exceeded="alert")
    told: list[object] = []
    stop = loco_otel.on_budget(told.append)
    with loco_otel.as_agent("analyst"), server.openai() as client:
        client.chat.completions.create(**CHAT, max_tokens=BOUND)
        stop()
        client.chat.completions.create(**CHAT, max_tokens=BOUND)
    assert len(server.requests()) == 2
    exceeded = scheduling.seen.of(BudgetExceeded)
    assert [event.action for event in exceeded] == [Action.ALERT, Action.ALERT]
    assert [event.percent for event in scheduling.seen.of(BudgetReached)] == [50, 80, 95]
    assert [type(event) for event in told] == [BudgetExceeded, *[BudgetReached] * 3]
    (spent, *_) = [span.attributes for span in scheduling.spans() if "loco.spend.weight" in span.attributes]
    assert spent["loco.budget.action"] == "alert"
    assert spent["loco.budget.remaining_usd"] < 0


def test_failed_callback_costs_no_call(server: LlmServer, priced: Any) -> None:
    priced(budgets="*=0.01", budget_on_exceeded="alert")

    def broken(_: object) -> None:
        raise OSError("no pager")

    loco_otel.on_budget(broken)
    with server.openai() as client:
        assert client.chat.completions.create(**CHAT, max_tokens=BOUND).choices


@each_sdk
@pytest.mark.parametrize("streamed", [False, True])
def test_downgraded_call_is_sent_with_the_cheaper_model(
    streamed: bool, sdk: Sdk, server: LlmServer, priced: Any
) -> None:
    asked, cheaper = ("gpt-4o", "gpt-4o-mini") if sdk.name == "openai" else ("claude-sonnet-5", "gpt-4o-mini")
    scheduling = priced(
        budgets="*=0.05", budget_on_exceeded="downgrade", downgrade={asked: ["gpt-4o", cheaper][asked == "gpt-4o" :]}
    )

    async def main() -> None:
        async with _entered(sdk, server) as client:
            if streamed:
                async for _ in each(await now(sdk.stream(client, **bounded(sdk)))):
                    pass
            else:
                await now(sdk.ask(client, **bounded(sdk)))

    sdk.run(main())
    (request,) = server.requests()
    assert request.body["model"] == cheaper
    (exceeded,) = scheduling.seen.of(BudgetExceeded)
    assert (exceeded.action, exceeded.model) == (Action.DOWNGRADE, cheaper)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.sent_model == cheaper
    assert spent.spending.action is Action.DOWNGRADE
    assert only().spent == (spent.spending.usd or 0) > 0
    (settled,) = [span.attributes for span in scheduling.spans() if "loco.spend.weight" in span.attributes]
    assert settled["loco.budget.model"] == cheaper
    inference = [span for span in scheduling.spans() if "gen_ai.operation.name" in span.attributes]
    assert {span.attributes["gen_ai.request.model"] for span in inference} <= {cheaper}
    (totals,) = loco_otel.spend(by="model")
    assert (totals.by, totals.calls) == ((cheaper,), 1)


@pytest.mark.parametrize("ends", ["reject", "alert"])
def test_end_of_the_ladder_refuses_or_admits(ends: str, server: LlmServer, priced: Any) -> None:
    scheduling = priced(
        budgets="*=0.001",
        budget_on_exceeded="downgrade",
        downgrade={"gpt-4o": "gpt-4o-mini"},
        downgrade_ends=ends,
    )
    loco_otel.configure(prices={**PRICES, "gpt-4o-mini": PRICES["gpt-4o"]})
    with server.openai() as client:
        if ends == "alert":
            client.chat.completions.create(**CHAT, max_tokens=BOUND)
            assert [it.body["model"] for it in server.requests()] == ["gpt-4o-mini"]
        else:
            with pytest.raises(BudgetExceededError):
                client.chat.completions.create(**CHAT, max_tokens=BOUND)
            assert server.requests() == []
    assert [str(event.action) for event in scheduling.seen.of(BudgetExceeded)] == [ends]


def test_ladder_has_only_models_of_the_same_resource(server: LlmServer, priced: Any, tmp_path: Any) -> None:
    priced(
        budgets="*=0.05",
        budget_on_exceeded="downgrade",
        downgrade={"gpt-4o": "gpt-4o-mini"},
        resources=[{"name": "small", "model": "*mini*", "capacity": 1}],
    )
    with server.openai() as client, pytest.raises(BudgetExceededError):
        client.chat.completions.create(**CHAT, max_tokens=BOUND)
    assert server.requests() == []


def test_model_of_a_glob_never_moves_up_the_ladder(server: LlmServer, priced: Any) -> None:
    priced(
        budgets=[{"scope": "model", "key": "gpt-4o-mini", "limit": 0.001, "on_exceeded": "downgrade"}],
        downgrade={"gpt-4o*": ["gpt-4o", "gpt-4o-mini", "gpt-4o-nano"]},
        downgrade_ends="alert",
    )
    with server.openai() as client:
        client.chat.completions.create(**{**CHAT, "model": "gpt-4o-mini"}, max_tokens=10 * BOUND)
    assert [request.body["model"] for request in server.requests()] == ["gpt-4o-nano"]


@each_sdk
def test_broken_stream_is_charged_by_its_chunks(sdk: Sdk, server: LlmServer, priced: Any) -> None:
    scheduling = priced(budgets="*=1")

    async def main() -> None:
        async with _entered(sdk, server) as client:
            stream = await now(sdk.stream(client, **bounded(sdk)))
            read = 0
            async for _ in each(stream):
                read += 1
                if read == 4:
                    break
            await now(stream.close())

    sdk.run(main())
    scheduling.settled(1)
    (totals,) = loco_otel.spend()
    assert (totals.calls, totals.estimated) == (1, 1)
    standing = only()
    assert 0 < standing.spent == totals.usd < BOUND * TOKEN
    assert standing.reserved == 0


@each_sdk
def test_failed_call_costs_and_holds_nothing(sdk: Sdk, server: LlmServer, priced: Any) -> None:
    scheduling = priced(budgets="*=1")
    server.script({"type": "fail", "status": 500, "times": 1})

    async def main() -> None:
        async with _entered(sdk, server) as client:
            with pytest.raises(Exception, match="500"):
                await now(sdk.ask(client, **bounded(sdk)))

    sdk.run(main())
    scheduling.settled(1)
    assert (only().spent, only().reserved) == (0, 0)
    assert loco_otel.spend() == ()


def test_retried_call_reserves_once(server: LlmServer, priced: Any) -> None:
    scheduling = priced(1, budgets=f"*={BOUND * TOKEN / MICRO}")
    server.script({"type": "fail", "status": 429, "retry_after": 0.01, "times": 2})
    with server.openai(max_retries=2) as client:
        client.chat.completions.create(**CHAT, max_tokens=BOUND)
    scheduling.settled(1)
    assert len(server.requests()) == 3
    assert only().spent == cost(scheduling)
    assert only().reserved == 0


def test_dropped_stream_is_charged_and_its_reservation_ends(server: LlmServer, priced: Any) -> None:
    scheduling = priced(budgets="*=1")
    with server.openai() as client:
        stream = iter(client.chat.completions.create(**CHAT, max_tokens=BOUND, stream=True))
        for _ in range(4):
            next(stream)
        assert only().reserved == BOUND * TOKEN
        del stream
        gc.collect()
    scheduling.settled(1)
    assert only().spent > 0
    assert only().reserved == 0


def test_call_reclaimed_by_max_hold_is_charged_when_it_ends(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(max_hold=0.2, capacity=1)
    loco_otel.configure(prices=PRICES, budgets="*=1")
    server.script({"type": "delay", "seconds": 0.8, "times": 1})
    with server.openai(max_retries=0) as client:
        client.chat.completions.create(**CHAT, max_tokens=BOUND)
    (totals,) = loco_otel.spend()
    assert only().spent == totals.usd > 0
    assert only().reserved == 0
    assert scheduling.active() == 0


def test_dearer_service_tier_is_reserved_for(server: LlmServer, scheduled: Scheduled) -> None:
    scheduled(capacity=1)
    loco_otel.configure(budgets="*=1")
    reserved = []
    with server.openai() as client:
        for tier in ("auto", "priority"):
            stream = client.chat.completions.create(**CHAT, max_tokens=BOUND, stream=True, service_tier=tier)
            reserved.append(only().reserved)
            stream.close()
    assert reserved[1] > reserved[0] > 0


@each_sdk
@pytest.mark.parametrize("method", ["compute_cost", "settle_reservation", "reserve_estimate"])
def test_internal_fault_costs_no_call_and_keeps_no_slot(
    method: str, sdk: Sdk, server: LlmServer, priced: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("on our side")

    scheduling = priced(1, budgets="*=1")
    monkeypatch.setattr(Prices if method == "compute_cost" else MemoryLedger, method, broken)

    async def main() -> None:
        async with _entered(sdk, server) as client:
            for streamed in (False, True):
                answer = await now(sdk.ask(client, stream=streamed, **bounded(sdk)))
                if streamed:
                    async for _ in each(answer):
                        pass

    sdk.run(main())
    scheduling.settled(2)
    assert len(server.requests()) == 2


def test_several_budgets_must_all_admit_and_are_all_charged(server: LlmServer, priced: Any) -> None:
    priced(
        budgets=[
            {"limit": 1, "scope": "all"},
            {"limit": 1, "scope": "team", "key": "red", "period": "hour"},
            {"limit": 0.07, "scope": "tenant", "period": "day"},
            {"limit": 1000, "scope": "model", "key": "gpt-*", "unit": "weight"},
        ]
    )
    with server.openai() as client, loco_otel.as_agent("a", team="red", tenant="acme", workflow="w", session="s"):
        client.chat.completions.create(**CHAT, max_tokens=BOUND)
        with pytest.raises(BudgetExceededError) as refused:
            client.chat.completions.create(**CHAT, max_tokens=BOUND)
    assert (refused.value.scope, refused.value.key) == ("tenant", "acme")
    standings = {(it.key.scope, it.key.key): it for it in loco_otel.budgets()}
    usd = {it.spent for (scope, _), it in standings.items() if scope != "model"}
    assert len(usd) == 1
    assert standings["model", "gpt-*"].spent >= 1000
    assert {it.reserved for it in standings.values()} == {0}
    (totals,) = loco_otel.spend(by=("team", "tenant", "workflow", "session", "agent"))
    assert totals.by == ("red", "acme", "w", "s", "a")


def test_unknown_model_costs_weight_and_no_usd(server: LlmServer, priced: Any) -> None:
    scheduling = priced(budgets=[{"limit": 0.001, "scope": "all"}, {"limit": 100, "scope": "all", "unit": "weight"}])
    with server.openai() as client:
        client.chat.completions.create(**{**CHAT, "model": "our-own-7b"})
    scheduling.settled(1)
    usd, weight = sorted(loco_otel.budgets(), key=lambda it: it.key.unit)
    assert (usd.spent, weight.spent > 0) == (0, True)
    (totals,) = loco_otel.spend()
    assert (totals.unpriced, totals.usd) == (1, 0)


def test_spend_counts_from_its_first_call(server: LlmServer) -> None:
    process.replace_runtime(Settings.load({}))
    loco_otel.install()
    try:
        with server.openai() as client:
            client.chat.completions.create(**CHAT)
            assert loco_otel.spend() == ()
            client.chat.completions.create(**CHAT)
            (totals,) = loco_otel.spend("model")
            assert (totals.calls, totals.usd > 0) == (1, True)
        with pytest.raises(ValueError, match=r"by must be of agent, tenant, .* not 'colour'"):
            loco_otel.spend("colour")
    finally:
        loco_otel.uninstall()
        process.replace_runtime(None)


def test_new_settings_keep_spending(server: LlmServer, priced: Any) -> None:
    priced(budgets="*=1")
    with server.openai() as client:
        client.chat.completions.create(**CHAT, max_tokens=BOUND)
        before = only().spent
        loco_otel.configure(max_hold=30, budget_period="total", budgets="*=2,analyst=3")
        client.chat.completions.create(**CHAT, max_tokens=BOUND)
    standings = {it.key.key: it for it in loco_otel.budgets()}
    assert (standings["*"].spent, standings["*"].limit) == (2 * before, 2_000_000)
    assert loco_otel.spend()[0].calls == 2


@pytest.fixture
def alone(server: LlmServer) -> Iterator[LlmServer]:
    """The SDKs patched, and nobody listens: no OpenTelemetry SDK."""
    process.replace_runtime(Settings.load({}))
    loco_otel.install()
    loco_otel.configure(prices=PRICES, budgets="*=1")
    yield server
    loco_otel.uninstall()
    process.replace_runtime(None)


@each_sdk
@pytest.mark.parametrize("way", ["whole", "streamed", "raw"])
def test_answers_are_measured_without_listeners(way: str, sdk: Sdk, alone: LlmServer) -> None:
    async def main() -> None:
        async with _entered(sdk, alone) as client:
            if way == "whole":
                await now(sdk.ask(client, **bounded(sdk)))
            elif way == "raw":
                options = CHAT if sdk.name == "openai" else MESSAGE
                await now(sdk.raw(client).create(**{**options, "max_tokens": BOUND}))
            else:
                async for _ in each(await now(sdk.stream(client, **bounded(sdk)))):
                    pass

    sdk.run(main())
    (totals,) = loco_otel.spend()
    assert totals.output_tokens > 5
    assert only().spent == totals.output_tokens * TOKEN
    assert only().reserved == 0


def test_call_dropped_during_its_wait_has_spent_nothing(server: LlmServer, priced: Any) -> None:
    scheduling = priced(1, budgets="*=1")
    loop = asyncio.new_event_loop()
    client = server.async_openai()

    async def wait() -> None:
        with loco_otel.slot("holder"):
            waiting = contextvars.Context().run(asyncio.create_task, client.chat.completions.create(**CHAT))
            while not scheduling.waiting():  # noqa: ASYNC110 - no event reports it
                await asyncio.sleep(0)
            # As the garbage collector closes a coroutine whose loop has ended.
            waiting.get_coro().close()

    loop.run_until_complete(wait())
    loop.run_until_complete(client.close())
    asyncio.gather(*asyncio.all_tasks(loop)).cancel() if asyncio.all_tasks(loop) else None
    loop.close()
    gc.collect()
    scheduling.settled(2)
    assert server.requests() == []
    assert (only().spent, only().reserved) == (0, 0)
    assert loco_otel.spend() == ()


# With a ledger in a file.


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
    ends = refused_or_answered(sdk, server, CALLERS)
    scheduling.settled(CALLERS)
    assert ends["answered"] == len(server.requests()) >= 10
    assert only().spent == cost(scheduling) <= limit
    assert only().reserved == 0


def test_restart_keeps_spending(server: LlmServer, scheduled: Scheduled, ledger: Path) -> None:
    for _ in range(2):
        scheduled(ledger=ledger)
        loco_otel.configure(prices=PRICES, budgets="*=1")
        with server.openai() as client:
            client.chat.completions.create(**CHAT, max_tokens=BOUND)
    (totals,) = loco_otel.spend()
    assert totals.calls == 2
    assert only().spent == totals.usd


@pytest.mark.parametrize("on_error", ["closed", "open"])
def test_unusable_ledger_refuses_or_admits(
    on_error: str, server: LlmServer, priced: Any, ledger: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scheduling = priced(1, budgets="*=1", ledger=str(ledger), ledger_on_error=on_error)
    with locked(ledger), server.openai() as client:
        if on_error == "closed":
            with pytest.raises(LedgerError, match="database is locked"):
                client.chat.completions.create(**CHAT, max_tokens=BOUND)
        else:
            client.chat.completions.create(**CHAT, max_tokens=BOUND)
    scheduling.settled(1)
    assert len(server.requests()) == (on_error == "open")
    # What the call took was kept, and is spent now.
    assert only().spent == cost(scheduling)
    assert only().reserved == 0
    assert (only().spent > 0) is (on_error == "open")
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
    assert only().spent == sum(event.spending.usd or 0 for event in scheduling.seen.of(Spent)) > 0
    assert only().reserved == 0
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "ledger write failed; costs stay in memory, retried (check LOCO_LEDGER)"
    ]
    assert [event.percent for event in scheduling.seen.of(BudgetReached)] == [1], "told when it was spent"


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


# Under a slot of the program's own.


@each_sdk
@pytest.mark.parametrize("streamed", [False, True])
def test_calls_in_a_slot_of_the_program_are_charged(streamed: bool, sdk: Sdk, server: LlmServer, priced: Any) -> None:
    scheduling = priced(1, budgets=f"*={BOUND * TOKEN / MICRO}")

    async def main() -> None:
        async with _entered(sdk, server) as client:
            with loco_otel.slot("mine"):
                answer = await now(sdk.ask(client, stream=streamed, **bounded(sdk)))
                if streamed:
                    async for _ in each(answer):
                        pass
                with pytest.raises(BudgetExceededError):
                    await now(sdk.ask(client, **bounded(sdk)))

    sdk.run(main())
    scheduling.runtime.engine.flush()
    assert len(server.requests()) == 1
    (spent,) = scheduling.seen.of(Spent)
    assert only().spent == spent.spending.usd > 0
    assert only().reserved == 0
    # It waited for nothing, so there is no acquire span of it, but for the one that was refused.
    outcomes = [span.attributes["loco.outcome"] for span in scheduling.spans("acquire")]
    assert sorted(map(str, outcomes)) == ["budget", "granted"]
    if sdk.name == "openai":  # Anthropic's makes its own
        (inference,) = scheduling.spans("chat")
        assert inference.attributes is not None
        assert inference.attributes["gen_ai.response.model"] == "gpt-4o"
    assert scheduling.active() == 0


def test_stream_in_a_dropped_slot_is_charged(server: LlmServer, priced: Any) -> None:
    scheduling = priced(1, budgets="*=1")
    with server.openai() as client, loco_otel.slot("mine"):
        stream = iter(client.chat.completions.create(**CHAT, max_tokens=BOUND, stream=True))
        for _ in range(4):
            next(stream)
        del stream
        gc.collect()
    scheduling.seen.wait_for(Spent)  # the engine ends a dropped call when it has the lock
    assert only().spent > 0
    assert only().reserved == 0
    assert len(scheduling.seen.of(Spent)) == 1
