"""Dashboard "Agent": where the time of an agent's calls goes, for whom it waits, and how releases compare."""

from grafana_foundation_sdk.builders import dashboard as builders

from dashboards.builder.frame import Page, Row, make_trace_link
from dashboards.builder.panels import (
    COUNT,
    PER_SECOND,
    SECONDS,
    USD,
    PanelBuilder,
    Query,
    make_bars,
    make_graph,
    make_heatmap,
    make_stat,
)
from dashboards.builder.queries import AGENT, MODEL, ORIGIN_FILTER, RATE, RESOURCE, Selectors, divide

_VARIABLES = ("agent", "resource", "model")
_AT = Selectors(_VARIABLES)
_RELEASE = "service_version"
_NO_CALL = "The chosen agents made no call in this range"


def build_agent() -> Page:
    """Return the dashboard."""
    return Page(
        "loco-agent",
        "loco-otel / Agent",
        "One agent in depth, or several: where the time of a call goes, which agents made it wait, and how releases "
        "compare.",
        _VARIABLES,
        (
            Row("Now", _list_totals()),
            Row("Where the time goes", _list_times()),
            Row("Waits", _list_waits()),
            Row("Releases side by side", _list_releases()),
        ),
    )


def _list_totals() -> list[PanelBuilder]:
    return [
        make_stat(
            "Calls in this range",
            "Requests for a slot that were granted.",
            Query(_AT.sum_growth("loco.acquire.requests", where='loco_outcome="granted"'), "calls"),
            COUNT,
            empty=_NO_CALL,
            over_range=True,
        ),
        make_stat(
            "Active calls",
            "Calls that hold a slot now.",
            Query(_AT.count_requests("loco.requests.active"), "active"),
            COUNT,
            empty=_NO_CALL,
        ),
        make_stat(
            "Waiting calls",
            "Calls that wait for a slot now.",
            Query(_AT.count_requests("loco.requests.waiting"), "waiting"),
            COUNT,
            empty=_NO_CALL,
            steps={1: "orange"},
        ),
        make_stat(
            "Wait, 95th percentile",
            "Of the calls that were decided in this range.",
            Query(_AT.quantile(0.95, "loco.wait.duration", window="$__range"), "p95"),
            SECONDS,
            empty=_NO_CALL,
            steps={5: "orange", 30: "red"},
            over_range=True,
        ),
        make_stat(
            "Spent in this range",
            "Cost of the calls that were settled.",
            Query(_AT.sum_growth("loco.spend"), "USD"),
            USD,
            empty="No call was settled in this range",
            over_range=True,
        ),
        make_stat(
            "Cost of a call",
            "Cost over granted requests of this range. Ignores the variables resource and model, which one of both "
            "lacks.",
            Query(
                divide(
                    Selectors(("agent",)).sum_growth("loco.spend"),
                    Selectors(("agent",)).sum_growth("loco.acquire.requests", where='loco_outcome="granted"'),
                ),
                "USD",
            ),
            USD,
            empty="No call was settled in this range",
            over_range=True,
        ),
    ]


def _list_times() -> list[PanelBuilder]:
    pause = divide(
        _AT.sum_rate("loco.pause.time"), _AT.sum_rate("loco.acquire.requests", where='loco_outcome="granted"')
    )
    return [
        make_graph(
            "Queue and provider",
            "Median and 95th percentile of the wait for a slot, and of the time that the slot was held: the "
            "provider's. The "
            "pause between retries, when no slot is held, as a mean over calls.",
            [
                Query(_AT.quantile(share, f"loco.{name}.duration"), f"{text} p{round(100 * share)}", exemplar=True)
                for name, text in (("wait", "queue"), ("hold", "provider"))
                for share in (0.5, 0.95)
            ]
            + [Query(pause, "pause mean")],
            SECONDS,
            empty=_NO_CALL,
            links=[_make_agent_link()],
        ),
        make_graph(
            "Calls: seconds per second",
            "Queue, pause and provider: the mean number of calls in each. Their shares are those of the time of a "
            "call.",
            [
                Query(_AT.sum_rate("loco.wait.time"), "queue"),
                Query(_AT.sum_rate("loco.pause.time"), "pause"),
                Query(_AT.sum_rate("loco.slot.time"), "provider"),
            ],
            COUNT,
            empty=_NO_CALL,
            is_stacked=True,
        ),
        make_graph(
            "Duration by model",
            "Median and 95th percentile from the grant to the end of the answer, retries included, of all agents.",
            [
                Query(
                    _AT.quantile(share, "gen_ai.client.operation.duration", MODEL),
                    f"{{{{{MODEL}}}}} p{round(100 * share)}",
                    exemplar=True,
                )
                for share in (0.5, 0.95)
            ],
            SECONDS,
            empty="loco-otel makes no inference span: another instrumentation does",
        ),
        make_graph(
            "Time to the first chunk by model, 95th percentile",
            "Of streams of all agents, from the grant.",
            Query(
                _AT.quantile(0.95, "gen_ai.client.operation.time_to_first_chunk", MODEL),
                f"{{{{{MODEL}}}}}",
                exemplar=True,
            ),
            SECONDS,
            empty="No stream in this range",
        ),
    ]


def _list_waits() -> list[PanelBuilder]:
    return [
        make_bars(
            "Waited in this range for",
            "Seconds of waiting by cause, and by the agent that held the slot.",
            Query(
                _AT.sum_growth("loco.wait.time", "loco_wait_cause, loco_blame_agent"),
                "{{loco_wait_cause}} {{loco_blame_agent}}",
            ),
            SECONDS,
            empty="No call waited in this range",
        ),
        make_bars(
            "Made others wait in this range",
            "Seconds that other agents waited behind slots that the chosen agents held.",
            Query(
                "sum by (loco_agent_id) (increase("
                + Selectors(("resource",)).select("loco.wait.time", 'loco_wait_cause="slot",loco_blame_agent=~"$agent"')
                + "[$__range]))",
                f"{{{{{AGENT}}}}}",
            ),
            SECONDS,
            empty="No other agent waited in this range",
        ),
        make_heatmap(
            "Waits, distribution",
            "Decided requests by the time that they waited.",
            f"sum by (le) (increase({_AT.select('loco.wait.duration', part='bucket')}[{RATE}]))",
            empty=_NO_CALL,
            width=8,
        ),
        make_graph(
            "Outcomes",
            "Decided requests per second.",
            Query(_AT.sum_rate("loco.acquire.requests", "loco_outcome"), "{{loco_outcome}}"),
            PER_SECOND,
            empty=_NO_CALL,
        ),
        make_graph(
            "Oldest wait",
            "How long the oldest request has waited, by resource.",
            Query(_AT.max_gauge("loco.queue.wait", RESOURCE), f"{{{{{RESOURCE}}}}}"),
            SECONDS,
            empty="No call waited in this range",
            links=[_make_agent_link()],
        ),
    ]


def _list_releases() -> list[PanelBuilder]:
    requests = _AT.select("loco.acquire.requests", 'loco_outcome="granted"')
    spend = _AT.select("loco.spend")
    buckets = _AT.select("loco.wait.duration", part="bucket")
    return [
        make_graph(
            "Calls by release",
            "Granted requests per second by `service.version`, from a label of the series or from `target_info`.",
            Query(_split_by_release(requests), f"{{{{{_RELEASE}}}}}"),
            PER_SECOND,
            empty="No service.version is set: OTEL_RESOURCE_ATTRIBUTES",
            width=8,
        ),
        make_graph(
            "Wait by release, 95th percentile",
            "Time from submit to grant or rejection.",
            Query(f"histogram_quantile(0.95, {_split_by_release(buckets, 'le')})", f"{{{{{_RELEASE}}}}}"),
            SECONDS,
            empty="No service.version is set: OTEL_RESOURCE_ATTRIBUTES",
            width=8,
        ),
        make_graph(
            "Spending per hour by release",
            "Cost of settled calls, extrapolated to an hour.",
            Query(f"3600 * ({_split_by_release(spend)})", f"{{{{{_RELEASE}}}}}"),
            USD,
            empty="No service.version is set: OTEL_RESOURCE_ATTRIBUTES",
            width=8,
        ),
    ]


def _split_by_release(selector: str, *labels: str) -> str:
    """Return a counter's rate by release: by a label of the series, or else by a join with target_info."""
    by = ", ".join((*labels, _RELEASE))
    releases = f"max by (job, instance, {_RELEASE}) (target_info{{{ORIGIN_FILTER}}})"
    labelled, plain = (f'{selector[:-1]},{_RELEASE}{match}""}}' for match in ("!=", "="))
    join = f"on (job, instance) group_left ({_RELEASE}) {releases}"
    return f"sum by ({by}) (rate({labelled}[{RATE}])) or sum by ({by}) (rate({plain}[{RATE}]) * {join})"


def _make_agent_link() -> builders.DashboardLink:
    return make_trace_link("Traces of the chosen agents", '{span.loco.agent.id=~"${agent:regex}" && name=~"acquire.*"}')
