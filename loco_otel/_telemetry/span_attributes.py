"""The attributes of spans, from events."""

from opentelemetry.util.types import AttributeValue

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry.blame import Blame
from loco_otel._telemetry.call_trace import CallTrace
from loco_otel.events import MILLI, Granted, GrantReason, Outcome, Rejected, Request, Spending, Waiting, WaitReason
from loco_otel.money import MICRO, BudgetStatus

_MAX_AGENTS = 5
"""Agents that a span names as holders; the rest are `other`."""

_CAUSE_KEYS = {
    "slot": key.WAIT_SLOT,
    "self": key.WAIT_SELF,
    "backoff": key.WAIT_BACKOFF,
    "requests": key.WAIT_REQUESTS,
    "tokens": key.WAIT_TOKENS,
    "ramp": key.WAIT_RAMP,
    "reserved": key.WAIT_RESERVED,
    "budget": key.WAIT_BUDGET,
    "unknown": key.WAIT_UNKNOWN,
}


def build_acquire_attributes(
    event: Granted | Rejected, request: Request, resource: str, outcome: Outcome, trace: CallTrace | None
) -> dict[str, AttributeValue]:
    """Return the attributes of an acquire span at its creation, where samplers read them."""
    # `_value_` here and below: each access to `value` is two calls in Python.
    attributes: dict[str, AttributeValue] = {
        key.AGENT: request.agent,
        key.RESOURCE: resource,
        key.TASK_WEIGHT: request.weight / MILLI,
        key.TASK_TYPE: request.task_type,
        key.POLICY: event.policy,
        key.OUTCOME: outcome._value_,
        key.WAIT_DURATION: event.waited,
        key.WAIT_TICKS: event.waited_ticks,
        key.PRIORITY: request.priority._value_,
    }
    if request.deadline is not None:
        attributes[key.DEADLINE] = request.deadline - (event.at - event.waited)
    if request.provider is not None:
        attributes[key.PROVIDER] = request.provider
    if request.model is not None:
        attributes[key.MODEL] = request.model
    if trace is not None and trace.caller_attributes:
        attributes.update(trace.caller_attributes)
    # Last: `slot(tenant=...)` names another one than its surroundings.
    if request.tenant is not None:
        attributes[key.TENANT] = request.tenant
    if request.run is not None:
        attributes[key.RUN] = request.run
    return attributes


def build_grant_attributes(event: Granted, attained: float | None) -> dict[str, AttributeValue]:
    """Return why a request was granted; `attained` is the weight that its run has been served, if that is known."""
    attributes: dict[str, AttributeValue] = {
        key.QUEUE_WEIGHT: event.queue_weight / MILLI,
        key.QUEUE_AGE: event.queue_age,
        key.TICK: event.tick,
        key.GRANT_REASON: event.reason._value_,
    }
    if event.reason is not GrantReason.FREE:
        attributes[key.SCORE] = event.score
        attributes[key.ALPHA] = event.alpha
    if attained is not None:
        attributes[key.RUN_ATTAINED] = attained
    return attributes


def build_wait_attributes(waiting: Waiting, outcome: Outcome) -> dict[str, AttributeValue]:
    """Return the state of the queue as a wait began."""
    reason = WaitReason.BUDGET if outcome is Outcome.BUDGET else waiting.reason
    attributes: dict[str, AttributeValue] = {
        key.WAIT_REASON: reason.value,
        key.WAIT_QUEUE_WEIGHT: waiting.queue_weight / MILLI,
        key.QUEUE_POSITION: waiting.position,
        key.WAITING: waiting.waiting,
    }
    if waiting.capacity is not None:
        attributes[key.CAPACITY] = waiting.capacity
    return attributes


def build_blame_attributes(blame: Blame) -> dict[str, AttributeValue]:
    """Return the seconds of a wait by cause, and the agents that held slots meanwhile, as two parallel lists."""
    attributes: dict[str, AttributeValue] = {_CAUSE_KEYS[cause]: seconds for cause, seconds in blame.causes.items()}
    if blame.agents:
        # What the blame itself calls `other` is last, whatever its seconds.
        named = [item for item in blame.agents if item[0] != key.OTHER][:_MAX_AGENTS]
        rest = blame.causes.get(key.SLOT, 0) - sum(seconds for _, seconds in named)
        if len(named) < len(blame.agents):
            named.append((key.OTHER, max(0.0, rest)))
        # Tuples, which light spans keep as they are.
        attributes[key.BLAME_AGENTS] = tuple([agent for agent, _ in named])
        attributes[key.BLAME_SECONDS] = tuple([seconds for _, seconds in named])
    return attributes


def build_spend_attributes(spending: Spending, *, has_usage: bool) -> dict[str, AttributeValue]:
    """Return what a call cost; its tokens only if the span has no `gen_ai.usage.*`."""
    usage = spending.usage
    attributes: dict[str, AttributeValue] = {
        key.SPENT_WEIGHT: spending.weight / MILLI,
        key.SPEND_ESTIMATED: usage is None or usage.estimated,
    }
    if usage is not None and not has_usage:
        attributes[key.SPENT_INPUT] = usage.input_tokens
        attributes[key.SPENT_OUTPUT] = usage.output_tokens
    if spending.usd is not None:
        attributes[key.SPENT_USD] = spending.usd / MICRO
    if spending.unpriced:
        attributes[key.SPEND_UNPRICED] = spending.unpriced
    if spending.remaining is not None:
        attributes[key.BUDGET_REMAINING] = spending.remaining / MICRO
    if spending.action is not None:
        attributes[key.BUDGET_ACTION] = spending.action.value
    if spending.sent_model is not None:
        attributes[key.BUDGET_MODEL] = spending.sent_model
    return attributes


def build_budget_attributes(standing: BudgetStatus) -> dict[str, AttributeValue]:
    """Return the status of a budget."""
    scope, name, unit, period = standing.key
    return {
        key.BUDGET_SCOPE: scope.value,
        key.BUDGET_KEY: name,
        key.BUDGET_PERIOD: period.value,
        key.BUDGET_UNIT: unit.value,
        key.BUDGET_LIMIT: unit.amount(standing.limit),
        key.BUDGET_SPENT: unit.amount(standing.spent),
        key.BUDGET_RESERVED: unit.amount(standing.reserved),
    }
