"""What calls cost in USD: real SDKs, the provider's own figures."""

import pytest
from sdk_calls import Sdk, each_sdk, now, opened
from sdk_scheduling import Scheduled
from sdk_server import LlmServer

import loco_otel
from loco_otel._budgets.prices import Prices
from loco_otel.events import Spent


@each_sdk
@pytest.mark.parametrize("streamed", [False, True])
def test_price_of_a_call_is_on_its_span(streamed: bool, sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=2)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            answer = await now(sdk.ask(client, stream=streamed))
            if streamed:
                await now(answer.close())

    sdk.run(main())
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    spending, request = spent.spending, spent.ticket.request
    assert spending.usage is not None
    micros = Prices().compute_cost(request.provider, (spending.model, request.model), spending.usage).usd
    settled = [span.attributes for span in scheduling.spans() if "loco.spend.weight" in (span.attributes or {})]
    assert micros
    assert [attributes["loco.spend.usd"] for attributes in settled if attributes] == [micros / 1_000_000]
    assert len(settled) == 1


def test_configured_prices_apply_without_a_restart(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=2)
    loco_otel.configure(prices={"gpt-*": {"input": 1_000_000, "output": 0}})
    sdk = Sdk("openai", is_async=False)
    with server.openai() as client:
        sdk.ask(client)
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage is not None
    (settled,) = [span.attributes for span in scheduling.spans() if "loco.spend.weight" in (span.attributes or {})]
    assert settled is not None
    assert settled["loco.spend.usd"] == spent.spending.usage.input_tokens
