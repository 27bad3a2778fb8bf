"""Prices and cheaper models of the SDKs that have one folder and few methods, through the clients of their rows."""

from decimal import ROUND_CEILING, Decimal

import pytest
import server_fixtures
from conformance import SDKS, ConformingSdk
from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from llm_server import LlmServer
from patience import PATIENCE
from sdk_scheduling import Scheduled

import loco_otel
from loco_otel.events import Spent

MICRO = 1_000_000
BY_NAME = {sdk.name: sdk for sdk in SDKS}
PUBLISHED = {
    "mistral": ("mistral-large-latest", "mistral"),
    "cohere": ("command-a", "cohere"),
    "cohere-v1": ("command-a", "cohere"),
    "azure-ai": ("gpt-4o", "azure"),
}
"""A model, and the provider whose price counts, by row."""
PRICES = {"dear": {"input": 1000, "output": 1000}, "cheap": {"input": 1, "output": 1}}
"""In USD per million tokens."""

server = server_fixtures.server


def call_once(sdk: ConformingSdk, server: LlmServer, model: str, *, streamed: bool = False) -> None:
    with sdk.open_caller(server, is_async=False) as caller:
        caller.start(caller.call(model, streamed=streamed)).result(PATIENCE)


@pytest.mark.parametrize("name", PUBLISHED)
def test_cost_is_at_prices_of_provider(name: str, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    loco_otel.configure(budgets="*=1")
    model, provider = PUBLISHED[name]
    call_once(BY_NAME[name], server, model)
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    price = calc_price(PricedUsage(input_tokens=5, output_tokens=5), model_ref=model, provider_id=provider)
    assert spent.spending.usd == int((Decimal(price.total_price) * MICRO).to_integral_value(ROUND_CEILING)) > 0


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", ["mistral", "cohere", "cohere-v1", "azure-ai", "huggingface", "ollama"])
def test_downgraded_call_is_sent_with_cheaper_model(
    name: str, streamed: bool, server: LlmServer, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=1)
    loco_otel.configure(prices=PRICES, budgets="*=0.01", budget_on_exceeded="downgrade", downgrade={"dear": "cheap"})
    call_once(BY_NAME[name], server, "dear", streamed=streamed)
    scheduling.settled(1)
    assert [request.model for request in server.requests()] == ["cheap"]
    assert len(scheduling.spans("chat cheap")) == 1
