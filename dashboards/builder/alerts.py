"""The alerts: what each compares, how urgent it is, and what its message is."""

import zlib
from typing import Any, NamedTuple

from dashboards.builder import settings as at
from dashboards.builder.metrics import find_metric
from dashboards.builder.queries import AGENT, BUDGET, IS_SHARED, RESOURCE, find_ledgers, prefer_shared, sum_by_store

_BUDGET_TEXT = (
    "{{ $labels.loco_budget_scope }} {{ $labels.loco_budget_key }} per {{ $labels.loco_budget_period }}"
    # A budget in a ledger belongs to no job.
    "{{ if $labels.job }} of {{ $labels.job }}{{ end }}"
)
_PAIR_TEXT = "agent {{ $labels.loco_agent_id }} of {{ $labels.job }} at {{ $labels.loco_resource_name }}"
_RESOURCE = f"job, {RESOURCE}"
"""Jobs may have engines of their own, and their resource the same name: `llm_api` where `LOCO_CAPACITY` is set."""
_PAIR = f"{AGENT}, {_RESOURCE}"


class Alert(NamedTuple):
    """One alerting rule."""

    name: str
    expr: str
    severity: str
    """`critical`: money or service is being lost now. `warning`: look at it today."""
    summary: str
    description: str
    dashboard: str
    """The uid of the dashboard that shows it."""
    wait: str = "0m"
    """For how long the condition must hold."""

    def as_rule(self) -> dict[str, Any]:
        """Return the rule in Prometheus' form."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.wait,
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{at.RUNBOOK_BASE}/{self.name}.md",
                "dashboard_uid": self.dashboard,
            },
        }

    def as_grafana_rule(self) -> dict[str, Any]:
        """Return the rule in the form of Grafana's provisioning files: it fires for each series of the query."""
        query = {"refId": "A", "expr": self.expr, "instant": True, "range": False}
        # Comparisons keep a series's own value, which may be 0, so each series that is there counts.
        condition = {"refId": "B", "type": "math", "expression": "$A * 0 + 1"}
        return {
            "uid": f"loco-{zlib.crc32(self.name.encode()):08x}",
            "title": self.name,
            "condition": "B",
            "data": [
                {
                    "refId": ref,
                    "relativeTimeRange": {"from": 600, "to": 0},
                    "datasourceUid": source,
                    "model": model,
                }
                for ref, source, model in (("A", "loco-prometheus", query), ("B", "__expr__", condition))
            ],
            "noDataState": "OK",
            "execErrState": "Error",
            **{key: value for key, value in self.as_rule().items() if key in {"for", "labels", "annotations"}},
        }


def list_alerts() -> list[Alert]:
    """Return all alerts."""
    return [*_list_budget_alerts(), *_list_queue_alerts(), *_list_run_alerts(), *_list_loss_alerts()]


def _name(metric: str) -> str:
    return find_metric(metric).prometheus_name


def _build_burn(severity: str) -> str:
    """Return the condition of the burn rates of one severity, for all periods."""
    parts = []
    for row in at.BURN_WINDOWS:
        if row.severity == severity:
            rate = row.factor / at.PERIOD_SECONDS[row.period]
            limit = f'{rate:.6g} * budget:loco_budget_limit:max{{loco_budget_period="{row.period}"}}'
            parts.append(
                f"(budget:loco_budget_charged:rate{row.long} > {limit}"
                f" and budget:loco_budget_charged:rate{row.short} > {limit})"
            )
    return "\nor ".join(parts)


def _list_budget_alerts() -> list[Alert]:
    left = "budget:loco_budget_limit:max - budget:loco_budget_spent:max - budget:loco_budget_reserved:max"
    rejected = sum_by_store(
        f'increase({_name("loco.budget.decisions")}{{loco_budget_action="reject"}}[{at.REJECTION_WINDOW}])',
        f"{BUDGET}, loco_budget_unit",
        f"({' or '.join(find_ledgers(it, at.REJECTION_WINDOW) for it in ('loco.budget', 'loco.budget.weight'))})",
    )
    rate = f"budget:loco_budget_charged:rate{at.FORECAST_WINDOW}"
    burns = [
        Alert(
            name,
            _build_burn(severity),
            severity,
            f"Budget {_BUDGET_TEXT} burns {text}",
            "Charges arrive at {{ $value | humanize }} {{ $labels.loco_budget_unit }} per second, far above the rate "
            "that "
            "lasts until the period's end.",
            "loco-spend",
        )
        for name, severity, text in (
            ("LocoBudgetBurnsFast", "critical", "fast"),
            ("LocoBudgetBurns", "warning", "faster than it lasts"),
        )
    ]
    return [
        *burns,
        Alert(
            "LocoBudgetNearlyUsed",
            f"budget:loco_budget_used:ratio >= {at.BUDGET_WARNING_SHARE} < {at.BUDGET_CRITICAL_SHARE}",
            "warning",
            f"Budget {_BUDGET_TEXT} is nearly used",
            "{{ $value | humanizePercentage }} of it is spent or reserved.",
            "loco-spend",
        ),
        Alert(
            "LocoBudgetUsedUp",
            # A budget with less left than a call costs rejects calls before it reaches its limit.
            f"budget:loco_budget_used:ratio >= {at.BUDGET_CRITICAL_SHARE}\nor ({rejected}) > 0",
            "critical",
            f"Budget {_BUDGET_TEXT} is used up",
            "Its limit is reached, or it rejected calls in the last minutes. By its action, calls are rejected, "
            "allowed with "
            "an alert, or sent to a cheaper model.",
            "loco-spend",
        ),
        Alert(
            "LocoBudgetRunsOut",
            f"({left}) / ({rate} > 0) < budget:loco_budget_reset_timestamp_seconds:min - time()\n"
            f"and budget:loco_budget_used:ratio > {at.FORECAST_MIN_SHARE} < {at.BUDGET_CRITICAL_SHARE}",
            "warning",
            f"Budget {_BUDGET_TEXT} runs out before its period ends",
            "At the rate of the last half hour it is empty in {{ $value | humanizeDuration }}.",
            "loco-spend",
            at.FORECAST_FOR,
        ),
    ]


def _list_queue_alerts() -> list[Alert]:
    requests = _name("loco.acquire.requests")
    decided = f"sum by ({_RESOURCE}) (increase({requests}[{at.REJECTION_WINDOW}]))"
    timeouts = f'sum by ({_RESOURCE}) (increase({requests}{{loco_outcome="timeout"}}[{at.REJECTION_WINDOW}]))'
    granted = f"sum by ({_RESOURCE}) (increase({_name('loco.grants')}[{at.STORM_WINDOW}]))"
    refused = (
        f'sum by ({_RESOURCE}) (increase({_name("loco.throttles")}{{loco_throttle_kind="load"}}[{at.STORM_WINDOW}]))'
    )
    saturation = prefer_shared(
        "sum", "max", _name("loco.resource.saturation"), f"{_name('loco.engine.mode')}{{{IS_SHARED}}}", _RESOURCE
    )
    return [
        Alert(
            "LocoAgentStarved",
            f"max by ({_PAIR}) ({_name('loco.queue.age')}) > {at.STARVATION_TICKS}\n"
            f"or max by ({_PAIR}) ({_name('loco.queue.wait')}) > {at.STARVATION_SECONDS}",
            "critical",
            f"A request of {_PAIR_TEXT} waits beyond the guard",
            f"Its oldest request has waited for {{{{ $value | humanize }}}} releases (more than "
            f"{at.STARVATION_TICKS}) or "
            f"seconds (more than {at.STARVATION_SECONDS}).",
            "loco-scheduling",
            at.STARVATION_FOR,
        ),
        Alert(
            "LocoSaturated",
            f"({saturation}) > {at.SATURATION}",
            "warning",
            "{{ $labels.job }} has far more calls than slots at {{ $labels.loco_resource_name }}",
            "Calls in slots and calls that wait are {{ $value | humanize }} times the slots.",
            "loco-overview",
            at.SATURATION_FOR,
        ),
        Alert(
            "LocoBackpressure",
            f'sum by ({_PAIR}) (increase({requests}{{loco_outcome="backpressure"}}[{at.REJECTION_WINDOW}])) > 0',
            "critical",
            f"Calls of {_PAIR_TEXT} are rejected, as too many wait",
            "{{ $value | humanize }} calls raised BackpressureError in the last minutes: LOCO_MAX_WAITERS is reached.",
            "loco-scheduling",
        ),
        Alert(
            "LocoAcquireTimeouts",
            f"{timeouts} / ({decided} > 0) > {at.TIMEOUT_SHARE}",
            "warning",
            "Calls of {{ $labels.job }} at {{ $labels.loco_resource_name }} time out while they wait for a slot",
            "{{ $value | humanizePercentage }} of the requests raised AcquireTimeoutError in the last minutes.",
            "loco-scheduling",
            "5m",
        ),
        Alert(
            "LocoThrottleStorm",
            f"{refused} > {at.STORM_REFUSALS}\nand {refused} / ({granted} > 0) > {at.STORM_SHARE}",
            "warning",
            "The provider behind {{ $labels.loco_resource_name }} refuses many calls of {{ $labels.job }}",
            "{{ $value | humanize }} calls were refused for load in the last five minutes. Client timeouts are not "
            "counted.",
            "loco-scheduling",
            at.STORM_FOR,
        ),
    ]


def _list_run_alerts() -> list[Alert]:
    decisions, slowdown = _name("loco.limit.decisions"), _name("loco.run.slowdown")
    refused = 'loco_limit_action="refused",loco_limit_reason=~"run_.+|stopped"'
    return [
        Alert(
            "LocoRunsRefused",
            f"sum by (job, loco_limit_reason) (increase({decisions}{{{refused}}}[{at.RUN_WINDOW}])) > 0",
            "warning",
            "Calls of {{ $labels.job }} are refused at a limit of their run, or stopped",
            "{{ $value | humanize }} calls in the last quarter of an hour, by {{ $labels.loco_limit_reason }}.",
            "loco-scheduling",
        ),
        Alert(
            "LocoRunsSlowed",
            f"histogram_quantile(0.5, sum by (le, job, gen_ai_workflow_name, loco_priority) "
            f"(rate({slowdown}_bucket[{at.RUN_WINDOW}]))) > {at.RUN_SLOWDOWN}",
            "warning",
            "Runs of {{ $labels.gen_ai_workflow_name }} of {{ $labels.job }} with priority "
            "{{ $labels.loco_priority }} mostly wait",
            "Half of them take more than {{ $value | humanize }} times as long as without waiting.",
            "loco-scheduling",
            at.RUN_SLOWED_FOR,
        ),
    ]


def _list_loss_alerts() -> list[Alert]:
    active = _name("loco.active")
    return [
        Alert(
            "LocoInactive",
            # LOCO_ENABLED=false is no accident.
            "max by (job, instance, loco_sdk_name, loco_inactive_reason) "
            f'({active}{{loco_inactive_reason!="disabled"}}) == 0',
            "critical",
            "{{ $labels.loco_sdk_name }} is not scheduled in {{ $labels.instance }}",
            "loco-otel is installed and schedules no call of this SDK: {{ $labels.loco_inactive_reason }}.",
            "loco-overview",
            at.INACTIVE_FOR,
        ),
        Alert(
            "LocoForksNotScraped",
            f"max by (job, instance) ({_name('loco.children')}) > 0",
            "warning",
            "{{ $labels.instance }} shows the metrics of a forking server's parent alone",
            "{{ $value | humanize }} child processes make the calls, and this page does not show them.",
            "loco-overview",
            at.FORKS_FOR,
        ),
        Alert(
            "LocoEngineAway",
            f'max by (job, instance, loco_engine_mode) ({_name("loco.engine.mode")}{{loco_engine_mode!="remote"}}) > 0',
            "warning",
            "{{ $labels.instance }} schedules without the shared engine",
            "It does not reach the server of LOCO_ENGINE and goes on in mode {{ $labels.loco_engine_mode }}.",
            "loco-scheduling",
            at.ENGINE_AWAY_FOR,
        ),
        Alert(
            "LocoTelemetryGone",
            f"max by (job) (max_over_time({active}[{at.SILENCE_MEMORY}])) unless max by (job) ({active})",
            "critical",
            "No telemetry of loco-otel from {{ $labels.job }}",
            f"It had some within the last {at.SILENCE_MEMORY}. The program ended, or its exporter or scrape fails.",
            "loco-overview",
            at.SILENCE_FOR,
        ),
        Alert(
            "LocoCallsBypassed",
            f"sum by (job, loco_bypass_reason) (increase({_name('loco.bypassed')}[{at.LOSS_WINDOW}])) > 0",
            "warning",
            "Calls of {{ $labels.job }} went out unscheduled",
            "{{ $value | humanize }} calls, for the reason {{ $labels.loco_bypass_reason }}. Limits and budgets lack "
            "them.",
            "loco-overview",
        ),
        Alert(
            "LocoEventsDropped",
            f"sum by (job) (increase({_name('loco.events.dropped')}[{at.LOSS_WINDOW}])) > 0",
            "warning",
            "Telemetry of {{ $labels.job }} is incomplete",
            "{{ $value | humanize }} events were dropped, as an exporter or span processor is too slow.",
            "loco-overview",
        ),
        Alert(
            "LocoCallsUnpriced",
            f"sum by (gen_ai_provider_name, gen_ai_request_model) (increase({_name('loco.spend.unpriced')}[1h])) > 0",
            "warning",
            "{{ $labels.gen_ai_request_model }} of {{ $labels.gen_ai_provider_name }} has no known price",
            "{{ $value | humanize }} calls within an hour cost more than is counted. Budgets do not hold for them.",
            "loco-spend",
        ),
    ]
