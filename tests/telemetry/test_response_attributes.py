"""What the inference span shows of an answer: the service tier, and the cost where the program opts in to it."""

from typing import Any

import pytest
from telemetry_scenario import SUBJECT, Rig

from loco_otel.events import Spending, Usage
from loco_otel.money import BilledItem

REPORTED = (BilledItem("reported_usd", 2500),)


def shown(spending: Spending, provider: str = "openai", *, shows_cost: bool = True) -> dict[str, Any]:
    rig = Rig()
    call = rig.telemetry.create_trace()
    call.begin_call("analyst", SUBJECT._replace(body={}, provider=provider), has_sdk_span=False)
    call.begin_inference("analyst", 995.0)
    assert call.inference_span is not None
    attributes = call.inference_span.build_response_attributes(spending, shows_cost=shows_cost)
    call.inference_span.span.set_attributes(attributes)
    call.inference_span.end_span(None, 0, 0)
    (span,) = [span for span in rig.spans() if span.name.startswith("chat")]
    names = ("openai.response.", "gen_ai.usage.cost.")
    return {name: value for name, value in (span.attributes or {}).items() if name.startswith(names)}


def test_service_tier_of_the_answer_is_openais_alone() -> None:
    spending = Spending(None, 1000, None, service_tier="flex")
    assert shown(spending) == shown(spending, "azure.ai.openai") == {"openai.response.service_tier": "flex"}
    assert shown(spending, "anthropic") == {}


@pytest.mark.parametrize(
    ("items", "usd", "source"),
    [((), 2500, "local"), (REPORTED, 2500, "provider"), (REPORTED, 900, "local")],
    ids=["computed", "reported", "price_of_the_settings"],
)
def test_cost_names_its_source(items: tuple[BilledItem, ...], usd: int, source: str) -> None:
    spending = Spending(Usage(1, 1, items=items), 1000, None, usd=usd)
    cost = {"amount": usd / 1_000_000, "currency": "USD", "source": source}
    assert shown(spending) == {f"gen_ai.usage.cost.{name}": value for name, value in cost.items()}
    assert shown(spending, shows_cost=False) == {}


def test_unknown_price_has_no_cost() -> None:
    assert shown(Spending(Usage(1, 1), 1000, None)) == {}
