"""Dashboard "Overview": health at a glance, whether more capacity would help, and whether the figures are complete."""

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
from dashboards.builder.queries import AGENT, BUDGET, IS_LEDGER, ORIGIN_FILTER, RESOURCE, Selectors, divide

_VARIABLES = ("resource", "agent")
_AT = Selectors(_VARIABLES)
_WHOLE = Selectors(("resource",))
"""For figures that have no meaning for a part of the agents."""

UTILISATION = divide(
    f"sum by ({RESOURCE}) (rate({_WHOLE.select('loco.slot.time')}[$__rate_interval]))",
    f"sum by ({RESOURCE}) (rate({_WHOLE.select('loco.capacity.time')}[$__rate_interval]))",
)
REFUSALS = 'loco_throttle_kind="load"'


def build_overview() -> Page:
    """Return the dashboard."""
    return Page(
        "loco-overview",
        "loco-otel / Overview",
        "LLM calls under the scheduler: health, waits, spending, and whether more capacity would help.",
        _VARIABLES,
        (
            Row("Health", _list_health()),
            Row("Over time", _list_trends()),
            Row("Raise capacity?", _list_capacity()),
            Row("Are these figures complete?", _list_completeness()),
        ),
    )


def _list_health() -> list[PanelBuilder]:
    return [
        make_stat(
            "Active calls",
            "Calls that hold a slot now.",
            Query(_AT.count_requests("loco.requests.active"), "active"),
            COUNT,
            empty="No telemetry of loco-otel in this range",
        ),
        make_stat(
            "Slot utilisation",
            "Time that slots were held over the time that slots existed, of the fullest resource. Near 1, calls queue.",
            Query(f"max({UTILISATION})", "utilisation"),
            RATIO,
            empty="Unlimited: no resource has a capacity",
            steps={0.8: "orange", 0.95: "red"},
        ),
        make_stat(
            "Waiting calls",
            "Calls that wait for a slot now.",
            Query(_AT.count_requests("loco.requests.waiting"), "waiting"),
            COUNT,
            empty="No telemetry of loco-otel in this range",
            steps={1: "orange"},
        ),
        make_stat(
            "Wait, 95th percentile",
            "95 % of the calls that were decided in this range waited no longer, immediate grants included.",
            Query(_AT.quantile(0.95, "loco.wait.duration", window="$__range"), "p95"),
            SECONDS,
            empty="No call was decided in this range",
            steps={5: "orange", 30: "red"},
            over_range=True,
        ),
        make_stat(
            "Refused by providers",
            "Answers 429, 503 or 529 in this range. Client timeouts and exhausted accounts are not counted here.",
            Query(_WHOLE.sum_growth("loco.throttles", where=REFUSALS), "refused"),
            COUNT,
            empty="No call was sent in this range",
            steps={1: "orange", 50: "red"},
            over_range=True,
        ),
        make_stat(
            "Spending per hour",
            "Cost of settled calls, extrapolated to an hour. Calls without a known price are missing here: see the "
            "dashboard Spend and budgets.",
            Query(f"3600 * {_AT.sum_rate('loco.spend')}", "USD per hour"),
            USD,
            empty="No call was settled in this range",
        ),
    ]


def _list_trends() -> list[PanelBuilder]:
    return [
        make_graph(
            "Slots in use and capacity",
            "Slots held, and slots that exist, by resource. A resource without a capacity is unlimited: it has no "
            "line.",
            [
                Query(_WHOLE.sum_gauge("loco.requests.active", RESOURCE), f"{{{{{RESOURCE}}}}} in use"),
                Query(_WHOLE.sum_capacity(), f"{{{{{RESOURCE}}}}} capacity"),
            ],
            COUNT,
            empty="No telemetry of loco-otel in this range",
        ),
        make_graph(
            "Waiting calls by agent",
            "Calls that wait for a slot.",
            Query(_AT.sum_gauge("loco.requests.waiting", AGENT), f"{{{{{AGENT}}}}}"),
            COUNT,
            empty="No telemetry of loco-otel in this range",
            is_stacked=True,
        ),
        make_graph(
            "Wait for a slot",
            "Median, 95th and 99th percentile of the time from submit to grant or rejection.",
            [
                Query(_AT.quantile(share, "loco.wait.duration"), f"p{round(100 * share)}", exemplar=True)
                for share in (0.5, 0.95, 0.99)
            ],
            SECONDS,
            empty="No call was decided in this range",
        ),
        make_graph(
            "Spending per hour by agent",
            "Cost of settled calls, extrapolated to an hour.",
            Query(f"3600 * {_AT.sum_rate('loco.spend', AGENT)}", f"{{{{{AGENT}}}}}"),
            USD,
            empty="No call was settled in this range",
            is_stacked=True,
        ),
        make_graph(
            "Decided requests by outcome",
            "Requests for a slot per second: granted, or why not.",
            Query(_AT.sum_rate("loco.acquire.requests", "loco_outcome"), "{{loco_outcome}}"),
            PER_SECOND,
            empty="No call was decided in this range",
        ),
        make_graph(
            "Throttles by provider and kind",
            "`load`: the provider refused the call. `timeout`: the client stopped waiting. `spend`: the account is "
            "exhausted.",
            Query(
                _WHOLE.sum_rate("loco.throttles", "gen_ai_provider_name, loco_throttle_kind"),
                "{{gen_ai_provider_name}} {{loco_throttle_kind}}",
            ),
            PER_SECOND,
            empty="No call was sent in this range",
        ),
    ]


def _list_capacity() -> list[PanelBuilder]:
    causes = _AT.sum_rate("loco.wait.time", "loco_wait_cause")
    return [
        make_graph(
            "Share of waiting by cause",
            "`slot` or `self`: all slots were held by others, or by the agent itself; more capacity helps `slot`, less "
            "concurrency in the agent helps `self`. `backoff`, `ramp`, `requests`, `tokens`: the provider is the "
            "limit. "
            "`budget`: a budget is.",
            Query(f"{causes} / on () group_left () ({_AT.sum_rate('loco.wait.time')} > 0)", "{{loco_wait_cause}}"),
            RATIO,
            empty="No call waited in this range",
            is_stacked=True,
            maximum=1,
        ),
        make_bars(
            "Waiting time by cause",
            "Seconds that calls waited in this range, open waits included.",
            Query(_AT.sum_growth("loco.wait.time", "loco_wait_cause"), "{{loco_wait_cause}}"),
            SECONDS,
            empty="No call waited in this range",
            width=6,
        ),
        make_graph(
            "Saturation",
            "Calls in slots and calls that wait, over the slots. 1 is full; what is above 1 is the queue.",
            Query(_WHOLE.saturation(), f"{{{{{RESOURCE}}}}}"),
            COUNT,
            empty="Unlimited: no resource has a capacity",
            width=6,
            steps={1: "orange", 3: "red"},
        ),
    ]


def _list_completeness() -> list[PanelBuilder]:
    other = _AT.sum_growth("loco.acquire.requests", where=f'{AGENT}="other"')
    inactive = f"up{{{ORIGIN_FILTER}}} == 1 unless on (job, instance) {_AT.select('loco.active')} > 0"
    ledger, own = (
        _AT.select(name, where) for name, where in (("loco.budget.spent", IS_LEDGER), ("loco.budget.charged", ""))
    )
    return [
        make_stat(
            "Calls that bypassed the scheduler",
            "Calls that went out unscheduled: an internal error, or a runtime that is not supported. Spend and waits "
            "lack them.",
            Query(_AT.sum_growth("loco.bypassed"), "bypassed"),
            COUNT,
            empty="No telemetry of loco-otel in this range",
            steps={1: "red"},
            over_range=True,
        ),
        make_stat(
            "Share of agents folded into other",
            "Requests of agents above LOCO_METRIC_VALUES. Above 0, panels by agent are incomplete.",
            Query(divide(f"({other} or vector(0))", _AT.sum_growth("loco.acquire.requests")), "other"),
            RATIO,
            empty="No call was decided in this range",
            steps={0.01: "orange", 0.2: "red"},
            over_range=True,
        ),
        make_stat(
            "Processes up without a scheduler",
            "Scraped processes without an SDK that is scheduled (`loco_active` is 0 or absent). Needs Prometheus to "
            "scrape: OTLP has no series `up`.",
            Query(f"count({inactive}) or vector(0)", "processes"),
            COUNT,
            empty="No process is scraped",
            steps={1: "red"},
            over_range=True,
        ),
        make_stat(
            "Forks without a page",
            "Child processes whose metrics the scraped page of their parent lacks. See the runbook "
            "LocoForksNotScraped.",
            Query(_AT.sum_gauge("loco.children"), "forks"),
            COUNT,
            empty="No process has forked",
            steps={1: "red"},
            over_range=True,
        ),
        make_stat(
            "Dropped events and rebuilt states",
            "Events that spans and metrics lack as an exporter was too slow, and operations of the scheduler that an "
            "exception interrupted, after which its state was rebuilt.",
            (
                Query(_AT.sum_growth("loco.events.dropped"), "dropped"),
                Query(_AT.sum_growth("loco.recoveries"), "rebuilt"),
            ),
            COUNT,
            empty="No telemetry of loco-otel in this range",
            steps={1: "red"},
            over_range=True,
        ),
        make_stat(
            "Series lost to the SDK's limit",
            "Series that OpenTelemetry's SDK folded together for too many combinations of labels.",
            Query(
                f'count({{__name__=~"loco_.+",otel_metric_overflow="true",{ORIGIN_FILTER}}}) or vector(0)', "overflow"
            ),
            COUNT,
            empty="No telemetry of loco-otel in this range",
            steps={1: "red"},
            over_range=True,
        ),
        make_table(
            "Ledger against counters",
            "What budgets in a ledger grew by in this range, beside what these processes charged. A difference of more "
            "than a call or two: a process that spends is not scraped.",
            {"loco_budget_scope": "Scope", "loco_budget_key": "Key", "loco_budget_period": "Period"},
            [
                # increase() of a gauge: the fall at a period's end counts as a counter's reset.
                Column("Ledger", f"max by ({BUDGET}) (increase({ledger}[$__range]))", USD),
                Column(
                    "Counters",
                    f"sum by ({BUDGET}) (increase({own}[$__range]) and on (job) max_over_time({ledger}[$__range]))",
                    USD,
                ),
            ],
            empty="No budget has a ledger: LOCO_LEDGER is unset",
            width=12,
        ),
        make_table(
            "Scheduled SDKs",
            "1: calls of this SDK are scheduled. 0: the plug-in is loaded and schedules nothing, for the reason given.",
            {
                "job": "Job",
                "loco_sdk_name": "SDK",
                "loco_sdk_version": "Version",
                "loco_inactive_reason": "Reason",
            },
            [
                Column(
                    "Processes",
                    "count by (job, loco_sdk_name, loco_sdk_version, loco_inactive_reason) "
                    f"({_AT.select('loco.active')})",
                    COUNT,
                ),
            ],
            empty="No telemetry of loco-otel in this range",
            width=12,
        ),
    ]
