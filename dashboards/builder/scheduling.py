"""Dashboard "Scheduling": which agents hold slots, which wait, for whom, and how the provider's limit moves."""

from dashboards.builder.frame import Page, Row, make_trace_link
from dashboards.builder.overview import REFUSALS, UTILISATION
from dashboards.builder.panels import (
    COUNT,
    PER_SECOND,
    RATIO,
    SECONDS,
    Column,
    PanelBuilder,
    Query,
    make_bars,
    make_graph,
    make_heatmap,
    make_matrix,
    make_stat,
    make_table,
)
from dashboards.builder.queries import AGENT, RESOURCE, Selectors, divide

_VARIABLES = ("resource", "agent")
_AT = Selectors(_VARIABLES)
_WHOLE = Selectors(("resource",))
_PAIR = f"{AGENT}, {RESOURCE}"
_BY_AGENT = f"{{{{{AGENT}}}}} at {{{{{RESOURCE}}}}}"
_BY_RESOURCE = f"{{{{{RESOURCE}}}}}"
_SELF = 'loco_wait_cause="self"'
_RUN = "gen_ai_workflow_name, loco_priority"
_BY_RUN = "{{gen_ai_workflow_name}} {{loco_priority}}"
_NO_RUN = "No run has ended: see docs/runs.md"
_NO_TELEMETRY = "No telemetry of loco-otel in this range"
_NO_ENGINE = "No engine is shared: LOCO_ENGINE is memory"
_NO_WAIT = "No call waited in this range"
_NO_THROTTLE = "The provider has refused nothing: the limit has no reference"


def build_scheduling() -> Page:
    """Return the dashboard."""
    return Page(
        "loco-scheduling",
        "loco-otel / Scheduling",
        "Slots and waits: which agents hold slots, which wait, which made them wait, and how the limit moves.",
        _VARIABLES,
        (
            Row("Slots", _list_slots()),
            Row("Which agent made which wait", _list_blame()),
            Row("Waits", _list_waits()),
            Row("Storm: the provider refuses calls", _list_storm()),
            Row("Runs and limits", _list_runs()),
            Row("Fairness", _list_fairness()),
            Row("Score", _list_score()),
            Row("Shared engine", _list_engine()),
        ),
    )


def _list_slots() -> list[PanelBuilder]:
    return [
        make_table(
            "Agents now",
            "Calls that hold a slot and calls that wait, by agent and resource. The highest score is next.",
            {AGENT: "Agent", RESOURCE: "Resource"},
            [
                Column("Active", _AT.sum_gauge("loco.requests.active", _PAIR), COUNT),
                Column("Waiting", _AT.sum_gauge("loco.requests.waiting", _PAIR), COUNT),
                Column("Oldest wait", _AT.max_gauge("loco.queue.wait", _PAIR), SECONDS),
                Column("Score L", _AT.max_gauge("loco.load.score", _PAIR), COUNT, 3),
                Column("Slot seconds", _AT.sum_growth("loco.slot.time", _PAIR), SECONDS),
            ],
            empty=_NO_TELEMETRY,
            sort_by="Waiting",
            height=9,
        ),
        make_graph(
            "Slots held by agent",
            "Calls that hold a slot.",
            Query(_AT.sum_gauge("loco.requests.active", AGENT), f"{{{{{AGENT}}}}}"),
            COUNT,
            empty=_NO_TELEMETRY,
            is_stacked=True,
        ),
        make_graph(
            "Utilisation",
            "Time that slots were held over the time that slots existed.",
            Query(UTILISATION, _BY_RESOURCE),
            RATIO,
            empty="Unlimited: no resource has a capacity",
            steps={0.95: "red"},
        ),
        make_table(
            "Settings",
            "Policy and capacity of each resource, with the processes that run it.",
            {
                RESOURCE: "Resource",
                "loco_policy": "Policy",
                "loco_capacity_mode": "Capacity",
                "loco_version": "Version",
            },
            [
                Column(
                    "Processes",
                    f"count by ({RESOURCE}, loco_policy, loco_capacity_mode, loco_version) "
                    f"({_WHOLE.select('loco.info')})",
                    COUNT,
                ),
            ],
            empty=_NO_TELEMETRY,
            width=12,
        ),
        make_graph(
            "Grants by reason",
            "`free`: a slot was free. `score`: the highest score. `guard`: the longest wait was ended. `reentrant`: a "
            "call "
            "inside a call.",
            Query(_WHOLE.sum_rate("loco.grants", "loco_grant_reason"), "{{loco_grant_reason}}"),
            PER_SECOND,
            empty="No slot was granted in this range",
        ),
    ]


def _list_blame() -> list[PanelBuilder]:
    return [
        make_matrix(
            "Seconds that an agent (row) waited for another (column)",
            "Seconds of waiting in this range behind slots that the other agent held. The diagonal is an agent's own "
            "concurrency.",
            # Of the cause `self` there is no agent to blame but the waiting one.
            _AT.sum_growth("loco.wait.time", f"{AGENT}, loco_blame_agent", 'loco_wait_cause="slot"')
            + f" or label_replace({_AT.sum_growth('loco.wait.time', AGENT, _SELF)}, "
            + f'"loco_blame_agent", "$1", "{AGENT}", "(.*)")',
            row=AGENT,
            column="loco_blame_agent",
            row_title="Agent that waited",
            unit=SECONDS,
            empty=_NO_WAIT,
        ),
        make_bars(
            "Seconds that others waited for an agent",
            "Seconds of waiting in this range, by the agent that held the slots.",
            Query(
                _AT.sum_growth("loco.wait.time", "loco_blame_agent", where='loco_wait_cause="slot"'),
                "{{loco_blame_agent}}",
            ),
            SECONDS,
            empty=_NO_WAIT,
            width=6,
        ),
        make_bars(
            "Seconds of waiting by cause",
            "Seconds of waiting in this range, open waits included.",
            Query(_AT.sum_growth("loco.wait.time", "loco_wait_cause"), "{{loco_wait_cause}}"),
            SECONDS,
            empty=_NO_WAIT,
            width=6,
        ),
    ]


def _list_waits() -> list[PanelBuilder]:
    return [
        make_heatmap(
            "Waits, distribution",
            "Decided requests by the time that they waited.",
            f"sum by (le) (increase({_AT.select('loco.wait.duration', part='bucket')}[$__rate_interval]))",
            empty="No call was decided in this range",
        ),
        make_graph(
            "Wait by agent, 95th percentile",
            "Time from submit to grant or rejection. A click on a line leads to the traces of the agent.",
            Query(_AT.quantile(0.95, "loco.wait.duration", AGENT), f"{{{{{AGENT}}}}}", exemplar=True),
            SECONDS,
            empty="No call was decided in this range",
            links=[
                make_trace_link("Traces", f'{{span.loco.agent.id="${{__field.labels.{AGENT}}}" && name=~"acquire.*"}}')
            ],
        ),
        make_graph(
            "Oldest wait",
            "How long the oldest request of an agent has waited. It grows while nothing is released.",
            Query(_AT.max_gauge("loco.queue.wait", _PAIR), _BY_AGENT),
            SECONDS,
            empty=_NO_WAIT,
        ),
        make_graph(
            "Requests without a slot",
            "Requests per second that were rejected or given up: `backpressure`, `timeout`, `budget`, `cancelled`, "
            "`shutdown`.",
            Query(
                _AT.sum_rate("loco.acquire.requests", f"{AGENT}, loco_outcome", where='loco_outcome!="granted"')
                + " > 0",
                f"{{{{{AGENT}}}}} {{{{loco_outcome}}}}",
            ),
            PER_SECOND,
            empty="Every request got a slot",
        ),
        make_graph(
            "Waiting calls and their bound",
            "All calls that wait, and LOCO_MAX_WAITERS over all processes. One more raises BackpressureError. Ignores "
            "the "
            "variables agent and resource.",
            [
                Query(Selectors(()).sum_gauge("loco.requests.waiting"), "waiting"),
                Query(Selectors(()).sum_gauge("loco.requests.waiting.max"), "bound"),
            ],
            COUNT,
            empty=_NO_TELEMETRY,
        ),
        make_graph(
            "Wait in ticks, 95th percentile",
            "Releases from submit to grant. The guard ends a wait at LOCO_MAX_WAIT_TICKS.",
            Query(_AT.quantile(0.95, "loco.wait.ticks", AGENT), f"{{{{{AGENT}}}}}"),
            COUNT,
            empty="No slot was granted in this range",
        ),
        make_graph(
            "Hold by agent, 95th percentile",
            "Time that a slot was held, from the grant to the end of the answer or a retry's pause.",
            Query(_AT.quantile(0.95, "loco.hold.duration", AGENT), f"{{{{{AGENT}}}}}", exemplar=True),
            SECONDS,
            empty="No slot was released in this range",
        ),
        make_graph(
            "Expired leases",
            "Slots per second that were taken back after LOCO_MAX_HOLD without a sign of life.",
            Query(_WHOLE.sum_rate("loco.leases.expired", RESOURCE), _BY_RESOURCE),
            PER_SECOND,
            empty=_NO_TELEMETRY,
        ),
    ]


def _list_runs() -> list[PanelBuilder]:
    runs = Selectors(())
    return [
        make_graph(
            "Active runs",
            "Runs that have not ended: a silent one counts for LOCO_RUN_IDLE_TIMEOUT, unless its framework ended it.",
            Query(runs.sum_gauge("loco.runs.active", _RUN), _BY_RUN),
            COUNT,
            empty=_NO_RUN,
        ),
        make_graph(
            "Run duration, 95th percentile",
            "Time from the first call of a run to the end of its last, of the runs that ended.",
            Query(runs.quantile(0.95, "loco.run.duration", _RUN), _BY_RUN),
            SECONDS,
            empty=_NO_RUN,
        ),
        make_graph(
            "Run wait, 95th percentile",
            "Time that a run lost to waiting for slots. A fair order between runs, or more capacity, shortens it.",
            Query(runs.quantile(0.95, "loco.run.wait", _RUN), _BY_RUN),
            SECONDS,
            empty=_NO_RUN,
        ),
        make_graph(
            "Run slowdown, median",
            "Duration of a run by what remains without its waits: 1 did not wait, 2 waited half of its time.",
            Query(runs.quantile(0.5, "loco.run.slowdown", _RUN), _BY_RUN),
            COUNT,
            empty=_NO_RUN,
        ),
        make_graph(
            "Wait by priority, 95th percentile",
            "Time from submit to grant or rejection, by how urgent the requests are.",
            Query(_AT.quantile(0.95, "loco.wait.duration", "loco_priority"), "{{loco_priority}}"),
            SECONDS,
            empty="No call was decided in this range",
        ),
        make_graph(
            "Decisions of limits",
            "Calls per second that a limit refused, warned of, or would have refused under LOCO_MODE=observe.",
            Query(
                runs.sum_rate("loco.limit.decisions", "loco_limit_reason, loco_limit_action") + " > 0",
                "{{loco_limit_reason}} {{loco_limit_action}}",
            ),
            PER_SECOND,
            empty="No limit has decided on a call",
        ),
    ]


def build_storm_state() -> str:
    """Return the query of a storm's state: 2 refused, 1 nothing refused and the limit still low, 0 over.

    A storm ends when the limit rises and nothing was refused for five minutes.
    """
    refused = _WHOLE.sum_increase("loco.throttles", RESOURCE, REFUSALS, window="5m")
    capacity = _WHOLE.max_gauge("loco.resource.capacity", RESOURCE)
    reference = _WHOLE.max_gauge("loco.limit.reference", RESOURCE)
    raised = _WHOLE.sum_increase("loco.limit.changes", RESOURCE, 'loco_limit_direction="up"', window="5m")
    is_low = f"({capacity} < bool {reference}) * ({raised} == bool 0)"
    return f"2 * ({refused} > bool 0) > 0 or {is_low} or 0 * {refused}"


def _list_storm() -> list[PanelBuilder]:
    remaining, limit = (
        _WHOLE.max_gauge(f"loco.ratelimit.{name}", f"{RESOURCE}, loco_ratelimit_kind")
        for name in ("remaining", "limit")
    )
    return [
        make_stat(
            "State",
            "Refused: the provider refused calls in the last five minutes. Recovering: it refuses none and the limit "
            "is "
            "below its reference and does not rise yet.",
            Query(build_storm_state(), _BY_RESOURCE),
            COUNT,
            empty=_NO_THROTTLE,
            steps={1: "orange", 2: "red"},
            width=6,
            height=8,
            mappings={"0": "No storm", "1": "Recovering", "2": "Refused"},
        ),
        make_graph(
            "Refused calls",
            "Answers 429, 503 or 529 per second, by provider and status.",
            Query(
                _WHOLE.sum_rate("loco.throttles", "gen_ai_provider_name, error_type", REFUSALS),
                "{{gen_ai_provider_name}} {{error_type}}",
            ),
            PER_SECOND,
            empty="No call was sent in this range",
            width=9,
        ),
        make_graph(
            "Limit and reference",
            "Slots that exist, and the level below the one that the provider last refused. The limit rises quickly to "
            "the "
            "reference, and slowly above it.",
            [
                Query(_WHOLE.max_gauge("loco.resource.capacity", RESOURCE), f"{_BY_RESOURCE} limit"),
                Query(_WHOLE.max_gauge("loco.limit.reference", RESOURCE), f"{_BY_RESOURCE} reference"),
            ],
            COUNT,
            empty="Unlimited: no resource has a capacity",
            width=9,
        ),
        make_graph(
            "Changes of the limit",
            "Per second, by direction.",
            Query(_WHOLE.change_rate(), f"{_BY_RESOURCE} {{{{loco_limit_direction}}}}"),
            PER_SECOND,
            empty=_NO_THROTTLE,
            width=8,
        ),
        make_graph(
            "Gate",
            "How much longer nothing is granted, because the provider asks for a pause.",
            Query(
                _WHOLE.max_gauge("loco.gate.closed", f"{RESOURCE}, loco_gate_cause"),
                f"{_BY_RESOURCE} {{{{loco_gate_cause}}}}",
            ),
            SECONDS,
            empty="No provider asked for a pause",
            width=8,
        ),
        make_graph(
            "Rate limit that remains",
            "Share of the provider's limit of requests or tokens per window, from its headers. At 0 it refuses calls.",
            Query(divide(remaining, limit), f"{_BY_RESOURCE} {{{{loco_ratelimit_kind}}}}"),
            RATIO,
            empty="The provider sends no rate limit headers",
            width=8,
            maximum=1,
        ),
    ]


def _list_fairness() -> list[PanelBuilder]:
    return [
        make_graph(
            "Fairness index",
            "Jain's index of the weight served to agents that had a request waiting throughout: 1 is equal, 1/agents "
            "is one "
            "agent alone.",
            Query(_WHOLE.max_gauge("loco.fairness.index", RESOURCE), _BY_RESOURCE),
            COUNT,
            empty="Fewer than two agents waited",
            width=8,
            maximum=1,
        ),
        make_graph(
            "Share of slots by agent",
            "Share of the time that slots were held.",
            Query(
                f"{_AT.sum_rate('loco.slot.time', AGENT)} / on () group_left () "
                f"({_WHOLE.sum_rate('loco.slot.time')} > 0)",
                f"{{{{{AGENT}}}}}",
            ),
            RATIO,
            empty="No slot was held in this range",
            width=8,
            is_stacked=True,
        ),
        make_graph(
            "Weight served by agent",
            "Weight of settled calls per second.",
            Query(_AT.sum_rate("loco.spend.weight", AGENT), f"{{{{{AGENT}}}}}"),
            PER_SECOND,
            empty="No call was settled in this range",
            width=8,
            is_stacked=True,
        ),
    ]


def _list_score() -> list[PanelBuilder]:
    return [
        make_graph(
            "Score L by agent",
            "The agent with the highest score is next.",
            Query(_AT.max_gauge("loco.load.score", _PAIR), _BY_AGENT),
            COUNT,
            empty="No agent competes for a slot",
        ),
        make_graph(
            "Queued weight Q by agent",
            "Weight of the requests that wait.",
            Query(_AT.sum_gauge("loco.queue.weight", _PAIR), _BY_AGENT),
            COUNT,
            empty="No agent competes for a slot",
        ),
        make_graph(
            "Queue age D by agent",
            "Releases since the oldest request was submitted.",
            Query(_AT.max_gauge("loco.queue.age", _PAIR), _BY_AGENT),
            COUNT,
            empty="No agent competes for a slot",
            width=8,
        ),
        make_graph(
            "Alpha",
            "Share of the queued weight in the score, against its age.",
            Query(_WHOLE.max_gauge("loco.scheduler.alpha", RESOURCE), _BY_RESOURCE),
            COUNT,
            empty=_NO_TELEMETRY,
            width=8,
            maximum=1,
        ),
        make_graph(
            "Ticks",
            "Releases per second.",
            Query(_WHOLE.sum_rate("loco.scheduler.ticks", RESOURCE), _BY_RESOURCE),
            PER_SECOND,
            empty=_NO_TELEMETRY,
            width=8,
        ),
    ]


def _list_engine() -> list[PanelBuilder]:
    everywhere = Selectors(())
    return [
        make_graph(
            "Processes by mode",
            "`remote`: the server of LOCO_ENGINE grants slots. `local`, `closed`, `open`: it is away, and "
            "LOCO_ENGINE_ON_ERROR decides.",
            Query(everywhere.sum_gauge("loco.engine.mode", "loco_engine_mode"), "{{loco_engine_mode}}"),
            COUNT,
            empty=_NO_ENGINE,
            width=8,
            is_stacked=True,
        ),
        make_graph(
            "Processes that share the engine",
            "As the server counts them, scraped or not. A killed process counts until its TTL has passed.",
            Query(everywhere.max_gauge("loco.engine.processes"), "processes"),
            COUNT,
            empty=_NO_ENGINE,
            width=8,
        ),
        make_graph(
            "Leases above the capacity",
            "Calls of processes that were silent for longer than their TTL and are back. Nothing is granted until it "
            "is 0.",
            Query(_WHOLE.max_gauge("loco.engine.overbooked", RESOURCE), _BY_RESOURCE),
            COUNT,
            empty=_NO_ENGINE,
            width=8,
        ),
        make_graph(
            "Round trip of the engine",
            "Median, 95th and 99th percentile of the time from a batch to the server's answer.",
            [
                Query(everywhere.quantile(share, "loco.engine.duration"), title)
                for share, title in ((0.5, "median"), (0.95, "95 %"), (0.99, "99 %"))
            ],
            SECONDS,
            empty=_NO_ENGINE,
        ),
        make_graph(
            "Errors of the engine",
            "Failures of the connection, and errors that the server replied, per second.",
            Query(everywhere.sum_rate("loco.engine.errors", "loco_engine_error"), "{{loco_engine_error}}"),
            PER_SECOND,
            empty="The engine has had no error",
        ),
    ]
