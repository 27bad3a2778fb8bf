"""Calls that are sent with a cheaper model, as a budget is used up."""

from typing import Any

import pytest
from budgeted_calls import BOUND, PRICES, bound_answer, open_client, read_budget
from sdk_calls import CHAT, Sdk, each, each_sdk, now
from sdk_server import LlmServer

import loco_otel
from loco_otel import BudgetExceededError
from loco_otel.events import BudgetExceeded, Spent
from loco_otel.money import Action


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
        async with open_client(sdk, server) as client:
            if streamed:
                async for _ in each(await now(sdk.stream(client, **bound_answer(sdk)))):
                    pass
            else:
                await now(sdk.ask(client, **bound_answer(sdk)))

    sdk.run(main())
    (request,) = server.requests()
    assert request.body["model"] == cheaper
    (exceeded,) = scheduling.seen.of(BudgetExceeded)
    assert (exceeded.action, exceeded.model) == (Action.DOWNGRADE, cheaper)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.sent_model == cheaper
    assert spent.spending.action is Action.DOWNGRADE
    assert read_budget().spent == (spent.spending.usd or 0) > 0
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
