"""Budgets of patched calls: what is refused and what is let through."""

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from budgeted_calls import (
    BOUND,
    CALLERS,
    PRICES,
    TOKEN,
    bound_answer,
    call_at_once,
    compute_cost,
    open_client,
    read_budget,
)
from patience import PATIENCE
from sdk_calls import CHAT, MESSAGE, Sdk, each, each_sdk, now
from sdk_scheduling import Scheduled
from sdk_server import LlmServer

import loco_otel
from loco_otel import BudgetExceededError
from loco_otel._budgets.memory_ledger import MemoryLedger
from loco_otel._budgets.prices import Prices
from loco_otel._config.settings import Settings
from loco_otel._runtime import process
from loco_otel.events import BudgetExceeded, BudgetReached, Outcome, Rejected, Spent
from loco_otel.money import MICRO, Action


@each_sdk
@pytest.mark.parametrize("capacity", ["auto", 3])
def test_callers_at_a_barrier_never_overspend(sdk: Sdk, capacity: object, server: LlmServer, priced: Any) -> None:
    limit = 10 * BOUND * TOKEN
    scheduling = priced(capacity, budgets=f"*={limit / MICRO}")
    ends = call_at_once(sdk, server, CALLERS)
    scheduling.settled(CALLERS)
    standing = read_budget()
    assert ends.total() == CALLERS
    assert ends["answered"] == len(server.requests()), "what is refused is not sent"
    assert ends["answered"] >= 10
    assert standing.spent == compute_cost(scheduling) <= limit
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
    ends = call_at_once(sdk, server, CALLERS, bound=1)
    scheduling.settled(CALLERS)
    spendings = [event.spending.usd or 0 for event in scheduling.seen.of(Spent)]
    beyond = sorted((spent - TOKEN for spent in spendings), reverse=True)
    assert ends["refused"] > 0
    assert limit < read_budget().spent == sum(spendings) <= limit + sum(beyond[:2])


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

    rest = [threading.Thread(target=call) for _ in range(3)]
    with server.openai(max_retries=0) as client:
        stream = client.chat.completions.create(**CHAT, max_tokens=BOUND, stream=True)
        for thread in rest:
            thread.start()
        while scheduling.waiting() < 3:
            threading.Event().wait(0.01)
        # While they wait, somebody lowers the limit to what is under way.
        loco_otel.configure(budgets=f"*={BOUND * TOKEN / MICRO}")
        for _ in stream:
            pass
    for thread in rest:
        thread.join(PATIENCE)
    assert ends == {"refused": 3}
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


def test_dearer_service_tier_is_reserved_for(server: LlmServer, scheduled: Scheduled) -> None:
    scheduled(capacity=1)
    loco_otel.configure(budgets="*=1")
    reserved = []
    with server.openai() as client:
        for tier in ("auto", "priority"):
            stream = client.chat.completions.create(**CHAT, max_tokens=BOUND, stream=True, service_tier=tier)
            reserved.append(read_budget().reserved)
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
        async with open_client(sdk, server) as client:
            for streamed in (False, True):
                answer = await now(sdk.ask(client, stream=streamed, **bound_answer(sdk)))
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
        before = read_budget().spent
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
        async with open_client(sdk, alone) as client:
            if way == "whole":
                await now(sdk.ask(client, **bound_answer(sdk)))
            elif way == "raw":
                options = CHAT if sdk.name == "openai" else MESSAGE
                await now(sdk.raw(client).create(**{**options, "max_tokens": BOUND}))
            else:
                async for _ in each(await now(sdk.stream(client, **bound_answer(sdk)))):
                    pass

    sdk.run(main())
    (totals,) = loco_otel.spend()
    assert totals.output_tokens > 5
    assert read_budget().spent == totals.output_tokens * TOKEN
    assert read_budget().reserved == 0
