"""Questions of an operator, each with the PromQL query that answers it: `docs/questions.md` is made from them.

`python -m loco_otel._telemetry.questions docs/questions.md [--check]`. The tests ask Prometheus each of them about a
workload of several processes, and compare the answers with what happened.
"""

import sys
from collections.abc import Sequence
from typing import NamedTuple

from loco_otel._telemetry import generated

_COMMAND = "python -m loco_otel._telemetry.questions"

WINDOW = "[15m]"
"""The range of the queries; change it to the time that a question is about."""


class Question(NamedTuple):
    """One question."""

    key: str
    """Names it in the tests."""
    text: str
    query: str
    """With `WINDOW` as its range."""
    note: str
    """How to read the answer."""


def _count(series: str) -> str:
    """Return the exact increase of each series, which `increase` would extrapolate."""
    return f"max_over_time({series}[15m]) - min_over_time({series}[15m])"


_BUDGET = "loco_budget_scope, loco_budget_key, loco_budget_period"

QUESTIONS = (
    Question(
        "refusals",
        "How many requests did a provider refuse?",
        "sum by (gen_ai_provider_name, error_type) "
        f"""({_count('loco_throttles_total{loco_throttle_kind!="timeout"}')}) > 0""",
        "Exact, where each start of a process has an `instance` of its own, as containers have; elsewhere use "
        "`increase`, which extrapolates. Each series starts at 0 with the first call of its kind, so the first refusal "
        "of each process counts.",
    ),
    Question(
        "timeouts",
        "How many attempts did our own timeouts end?",
        f"""sum by (gen_ai_provider_name) ({_count('loco_throttles_total{loco_throttle_kind="timeout"}')}) > 0""",
        "These are no refusals: the client stopped waiting for the answer.",
    ),
    Question(
        "exhaustion",
        "Which budgets run out before their period ends, and in how many seconds?",
        f"max by ({_BUDGET}) (loco_budget_limit_USD - loco_budget_spent_USD - loco_budget_reserved_USD) "
        f"/ on ({_BUDGET}) sum by ({_BUDGET}) (rate(loco_budget_charged_USD_total[15m])) "
        f'< on ({_BUDGET}) max by ({_BUDGET}) (loco_budget_reset_timestamp_seconds{{loco_budget_unit="usd"}}) - time()',
        "At the rate of the range. For budgets in a ledger; without one each process has budgets of its own: add "
        "`instance` to each `by` and `on`.",
    ),
    Question(
        "spent",
        "What has a budget spent in this period?",
        f'max by ({_BUDGET}) (loco_budget_spent_USD{{loco_budget_store="ledger"}}) '
        f'or sum by (job, {_BUDGET}) (loco_budget_spent_USD{{loco_budget_store="memory"}})',
        "All processes of a ledger report the same amount, whatever their job. In memory each job has its own.",
    ),
    Question(
        "utilization",
        "How busy are the slots?",
        "sum by (loco_resource_name) (rate(loco_slot_time_seconds_total[15m]) "
        "and on (job, instance, loco_resource_name) loco_resource_capacity offset 15m) "
        "/ sum by (loco_resource_name) (rate(loco_capacity_time_seconds_total[15m]) "
        "and on (job, instance, loco_resource_name) loco_resource_capacity offset 15m)",
        "1 is all slots all the time. Only processes whose resource was limited throughout count, so there is no "
        "answer while `LOCO_CAPACITY` is `auto` and no provider has refused a request.",
    ),
    Question(
        "saturation",
        "How near its limit is a resource now?",
        "max by (job, loco_resource_name) ("
        "sum by (job, loco_resource_name) (loco_resource_saturation and on (job, instance) "
        '(loco_engine_mode{loco_engine_mode="remote"} == 1)) '
        "or (loco_resource_saturation unless on (job, instance) "
        '(loco_engine_mode{loco_engine_mode="remote"} == 1)))',
        "1 is full; the rest is the queue, in units of the slots. Of shared slots, each process reports its part. "
        "No answer while the resource is unlimited.",
    ),
    Question(
        "fairness",
        "Do agents that wait get equal service?",
        "min by (loco_resource_name) (loco_fairness_index)",
        "From 1/agents to 1. No answer unless two agents have had a request waiting throughout.",
    ),
    Question(
        "blame",
        "Because of which agents do agents wait?",
        "sum by (loco_agent_id, loco_wait_cause, loco_blame_agent) (rate(loco_wait_time_seconds_total[15m])) > 0",
        "The mean number of requests that wait for it. `slot` names the agent that holds the slot; `self` is the "
        "agent's own calls, `backoff` the provider's pause, `requests` and `tokens` rates per minute, `ramp` an "
        "adaptive limit, `reserved` other requests and `budget` the check of budgets.",
    ),
    Question(
        "headroom",
        "How much of the provider's own limits is left?",
        "min by (loco_resource_name, loco_ratelimit_kind) (loco_ratelimit_remaining / loco_ratelimit_limit)",
        "From the headers of the last answer: 0 means that the next request is refused.",
    ),
    Question(
        "pauses",
        "How long did agents pause between a refused attempt and the next one?",
        "sum by (loco_agent_id) (increase(loco_pause_time_seconds_total[15m])) > 0",
        "Seconds, summed over calls. A paused call holds no slot and is not in the queue.",
    ),
    Question(
        "holds",
        "Which agents hold the slots, calls under way included?",
        "sum by (loco_agent_id) (increase(loco_slot_time_seconds_total[15m])) > 0",
        "Seconds of slots. `loco_hold_duration_seconds` counts a call only when it ends.",
    ),
    Question(
        "inactive",
        "Where is loco-otel installed, but schedules nothing?",
        "max by (job, instance, loco_sdk_name, loco_inactive_reason) (loco_active) == 0",
        "The reason is `disabled`, `configuration_error`, `unsupported_version` or `patch_failed`.",
    ),
    Question(
        "children",
        "Which processes do not show the calls of their forked children?",
        "max by (job, instance) (loco_children) > 0",
        "Each child needs a page, or an OTLP exporter, of its own.",
    ),
    Question(
        "tokens",
        "How many tokens did each agent use?",
        "sum by (loco_agent_id, gen_ai_token_type) (max_over_time(loco_tokens_total[15m])) > 0",
        "Since the start of each process that ran in the range, and exact; `increase` estimates the range alone. Above "
        "1000 series of an instrument agents are reported as `other`; the sum stays right.",
    ),
    Question(
        "cost",
        "What did each agent cost?",
        "sum by (loco_agent_id) (max_over_time(loco_spend_USD_total[15m])) > 0",
        "In USD, likewise since the start of each process, and exact.",
    ),
    Question(
        "waits",
        "Which tenants wait?",
        "sum by (loco_tenant_id) (max_over_time(loco_wait_duration_seconds_sum[15m]) "
        "* on (job, instance, loco_agent_id) group_left (loco_tenant_id) "
        "group by (job, instance, loco_agent_id, loco_tenant_id) (max_over_time(loco_spend_USD_total[15m])))",
        "Seconds since the start of the processes, where each agent belongs to one tenant. Spans have the tenant too.",
    ),
    Question(
        "decisions",
        "Which budgets had no room for calls, and what did they do?",
        f"sum by ({_BUDGET}, loco_budget_unit, loco_budget_action) ({_count('loco_budget_decisions_total')}) > 0",
        "Calls, by `reject`, `alert` or `downgrade`.",
    ),
    Question(
        "policy",
        "Which policy and which kind of limit does each resource have?",
        "max by (instance, loco_resource_name, loco_policy, loco_capacity_mode, loco_version) (loco_info)",
        "Always 1. During a release there are several.",
    ),
    Question(
        "quantile",
        "How long do agents wait?",
        "histogram_quantile(0.95, sum by (loco_agent_id, le) (rate(loco_wait_duration_seconds_bucket[15m])))",
        "The 95th percentile in seconds, within a bucket of the histogram.",
    ),
)
"""Every question."""


def render_page() -> str:
    """Return the page, in Markdown."""
    introduction = (
        "Each query is PromQL over the metrics of [telemetry.md](telemetry.md), and gives the same answer on "
        f"Prometheus 2.42 and 3.5. Replace `{WINDOW}` and `offset 15m` by the time that you ask about: it must span "
        "several scrapes. Tests ask all of them about several processes on one ledger, with refusals, timeouts, a "
        "restart, a release and the end of a period, and compare the answers with the ledger, the provider's log and "
        "the spans.\n"
    )
    parts = [
        f"<!-- Generated by `{_COMMAND}`. Edit the questions there instead. -->\n",
        "# Questions and queries\n",
        introduction,
    ]
    for question in QUESTIONS:
        parts.append(f"## {question.text}\n")
        parts.append(f"```promql\n{question.query}\n```\n")
        parts.append(f"{question.note}\n")
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or check that it is up to date; return the exit code."""
    return generated.run_generator(_COMMAND, render_page, arguments)


if __name__ == "__main__":
    sys.exit(main())
