"""Dashboard "Spend and budgets": what calls cost, and when budgets run out."""

from dashboards.builder.frame import Page, Row
from dashboards.builder.panels import (
    COUNT,
    PER_SECOND,
    RATIO,
    SECONDS,
    USD,
    Column,
    PanelBuilder,
    Query,
    make_bars,
    make_graph,
    make_stat,
    make_table,
)
from dashboards.builder.queries import AGENT, BUDGET, MODEL, TENANT, Selectors, divide

_VARIABLES = ("agent", "model", "tenant")
_AT = Selectors(_VARIABLES)
_SCOPE = "loco_budget_scope"
_BUDGET_KEYS = {_SCOPE: "Scope", "loco_budget_key": "Key", "loco_budget_period": "Period"}
_BUDGET_LEGEND = "{{loco_budget_scope}} {{loco_budget_key}} {{loco_budget_period}}"
_NO_BUDGET = "No budget is set: LOCO_BUDGETS"
_NO_SPENDING = "No call was settled in this range"

_LIMIT, _SPENT, _RESERVED = (_AT.budget_amount(f"loco.budget.{name}") for name in ("limit", "spent", "reserved"))
_CHARGED = f"sum by ({BUDGET}) (rate({_AT.select('loco.budget.charged')}[$__rate_interval]))"
_CHARGED_SLOWLY = f"sum by ({BUDGET}) (rate({_AT.select('loco.budget.charged')}[30m]))"
_RESET = _AT.select("loco.budget.reset.timestamp", 'loco_budget_unit="usd"')
_SECONDS_TO_RESET = f"(min by ({BUDGET}) ({_RESET}) - time())"
_SECONDS_TO_EMPTY = f"(clamp_min({_LIMIT} - {_SPENT} - {_RESERVED}, 0) / ({_CHARGED_SLOWLY} > 0))"
_USED = f"({_SPENT} + {_RESERVED}) / ({_LIMIT} > 0)"


def build_spend() -> Page:
    """Return the dashboard."""
    return Page(
        "loco-spend",
        "loco-otel / Spend and budgets",
        "What calls cost by agent, tenant and model, and when budgets run out.",
        _VARIABLES,
        (
            Row("Now", _list_totals()),
            Row("Spending", _list_spending()),
            Row("Budgets", _list_budgets()),
            Row("Tokens and prices", _list_tokens()),
        ),
    )


def _list_totals() -> list[PanelBuilder]:
    return [
        make_stat(
            "Spent in this range",
            "Cost of the calls that were settled.",
            Query(_AT.sum_growth("loco.spend"), "USD"),
            USD,
            empty=_NO_SPENDING,
            over_range=True,
        ),
        make_stat(
            "Spending per hour",
            "Cost of settled calls, extrapolated to an hour.",
            Query(f"3600 * {_AT.sum_rate('loco.spend')}", "USD per hour"),
            USD,
            empty=_NO_SPENDING,
        ),
        make_stat(
            "Fullest budget",
            "Share of the limit that is spent or reserved.",
            Query(f"max({_USED})", "used"),
            RATIO,
            empty=_NO_BUDGET,
            steps={0.8: "orange", 1: "red"},
        ),
        make_stat(
            "Budgets that end before their period",
            "At the rate of the last 30 minutes.",
            Query(f"count({_SECONDS_TO_EMPTY} < {_SECONDS_TO_RESET}) or vector(0)", "budgets"),
            COUNT,
            empty=_NO_BUDGET,
            steps={1: "red"},
        ),
        make_stat(
            "Calls without room in a budget",
            "Rejected, allowed with an alert, or sent to a cheaper model.",
            Query(_AT.sum_growth("loco.budget.decisions"), "calls"),
            COUNT,
            empty="Every budget had room",
            steps={1: "orange"},
            over_range=True,
        ),
        make_stat(
            "Calls without a price",
            "Settled calls of which all or a part has no known price: the spending here lacks them. Set `[prices]`.",
            Query(_AT.sum_growth("loco.spend.unpriced"), "calls"),
            COUNT,
            empty="Every call had a price",
            steps={1: "orange"},
            over_range=True,
        ),
    ]


def _list_spending() -> list[PanelBuilder]:
    groups = {"agent": AGENT, "tenant": TENANT, "model": MODEL}
    graphs: list[PanelBuilder] = [
        make_graph(
            f"Spending per hour by {name}",
            "Cost of settled calls, extrapolated to an hour.",
            Query(f"3600 * {_AT.sum_rate('loco.spend', label)}", f"{{{{{label}}}}}"),
            USD,
            empty=_NO_SPENDING,
            width=8,
            is_stacked=True,
        )
        for name, label in groups.items()
    ]
    bars: list[PanelBuilder] = [
        make_bars(
            f"Spent in this range by {name}",
            "Cost of the calls that were settled.",
            Query(_AT.sum_growth("loco.spend", label), f"{{{{{label}}}}}"),
            USD,
            empty=_NO_SPENDING,
        )
        for name, label in groups.items()
    ]
    return graphs + bars


def _list_budgets() -> list[PanelBuilder]:
    weight_limit, weight_spent, weight_reserved = (
        _AT.budget_amount(f"loco.budget.weight.{name}") for name in ("limit", "spent", "reserved")
    )
    return [
        make_table(
            "Budgets in USD",
            "Amounts of budgets in a ledger are the ledger's; of those in memory, the sum over processes. The rate is "
            "that of "
            "the last 30 minutes.",
            _BUDGET_KEYS,
            [
                Column("Limit", _LIMIT, USD),
                Column("Spent", _SPENT, USD),
                Column("Reserved", _RESERVED, USD),
                Column("Used", _USED, RATIO),
                Column("USD per hour", f"3600 * {_CHARGED_SLOWLY}", USD),
                Column("Empty in", _SECONDS_TO_EMPTY, SECONDS),
                Column("Resets in", _SECONDS_TO_RESET, SECONDS),
            ],
            empty=_NO_BUDGET,
            sort_by="Used",
            height=9,
        ),
        make_graph(
            "Budget used",
            "Share of the limit that is spent or reserved.",
            Query(_USED, _BUDGET_LEGEND),
            RATIO,
            empty=_NO_BUDGET,
            steps={0.8: "orange", 1: "red"},
        ),
        make_graph(
            "Spent and reserved",
            "Reserved is the estimate of calls in flight. It becomes spent, or free again, as they end.",
            [Query(_SPENT, f"{_BUDGET_LEGEND} spent"), Query(_RESERVED, f"{_BUDGET_LEGEND} reserved")],
            USD,
            empty=_NO_BUDGET,
        ),
        make_graph(
            "Burn rate",
            "The rate of charges over the rate that would use up what is left exactly at the period's end. Above 1 "
            "the budget "
            "runs out early.",
            Query(
                f"{_CHARGED} * clamp_min({_SECONDS_TO_RESET}, 1) / (({_LIMIT} - {_SPENT} - {_RESERVED}) > 0)",
                _BUDGET_LEGEND,
            ),
            RATIO,
            empty="No budget with a period that ends",
            steps={1: "red"},
            width=8,
        ),
        make_graph(
            "Time to empty and to reset",
            "A budget whose line `empty` is below its line `reset` runs out before its period ends.",
            [
                Query(_SECONDS_TO_EMPTY, f"{_BUDGET_LEGEND} empty"),
                Query(f"{_SECONDS_TO_RESET} > 0", f"{_BUDGET_LEGEND} reset"),
            ],
            SECONDS,
            empty="No budget with a period that ends",
            width=8,
        ),
        make_graph(
            "Calls without room, by budget and action",
            "Calls per second that a budget had no room for, and what it did.",
            Query(
                _AT.sum_rate("loco.budget.decisions", f"{BUDGET}, loco_budget_action"),
                f"{_BUDGET_LEGEND} {{{{loco_budget_action}}}}",
            ),
            PER_SECOND,
            empty="Every budget had room",
            width=8,
        ),
        make_table(
            "Budgets in weight",
            "Amounts of budgets whose unit is the weight of calls.",
            _BUDGET_KEYS,
            [
                Column("Limit", weight_limit, COUNT),
                Column("Spent", weight_spent, COUNT),
                Column("Reserved", weight_reserved, COUNT),
                Column("Used", f"({weight_spent} + {weight_reserved}) / ({weight_limit} > 0)", RATIO),
                Column("Charged in this range", _AT.sum_growth("loco.budget.weight.charged", BUDGET), COUNT),
            ],
            empty="No budget in weight is set",
            height=6,
        ),
    ]


def _list_tokens() -> list[PanelBuilder]:
    return [
        make_graph(
            "Tokens by direction",
            "Tokens of settled calls per second, estimated where the provider did not count them.",
            Query(_AT.sum_rate("loco.tokens", "gen_ai_token_type"), "{{gen_ai_token_type}}"),
            PER_SECOND,
            empty=_NO_SPENDING,
            width=8,
        ),
        make_graph(
            "Tokens by agent",
            "Tokens of settled calls per second.",
            Query(_AT.sum_rate("loco.tokens", AGENT), f"{{{{{AGENT}}}}}"),
            PER_SECOND,
            empty=_NO_SPENDING,
            width=8,
            is_stacked=True,
        ),
        make_bars(
            "USD per million tokens by model",
            "What settled calls cost in this range over the tokens that they took.",
            Query(
                "1000000 * " + divide(_AT.sum_growth("loco.spend", MODEL), _AT.sum_growth("loco.tokens", MODEL)),
                f"{{{{{MODEL}}}}}",
            ),
            USD,
            empty=_NO_SPENDING,
        ),
        make_graph(
            "Calls without a price, by part",
            "Settled calls per second of which a part has no known price, by model and part.",
            Query(
                _AT.sum_rate("loco.spend.unpriced", f"{MODEL}, loco_spend_kind"),
                f"{{{{{MODEL}}}}} {{{{loco_spend_kind}}}}",
            ),
            PER_SECOND,
            empty="Every call had a price",
        ),
        make_graph(
            "Tokens of a call, 95th percentile",
            "As the provider counts them, of calls whose inference span loco-otel makes.",
            Query(
                _AT.quantile(0.95, "gen_ai.client.token.usage", "gen_ai_token_type"),
                "{{gen_ai_token_type}}",
            ),
            COUNT,
            empty="loco-otel makes no inference span: another instrumentation does",
        ),
    ]
