"""Metrics and labels that panels already use and the catalogue does not have yet.

A row has no effect once the catalogue has its name. Queries that use a planned metric or label need no data from the
live workload of the tests.
"""

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry.catalogue import InstrumentKind, MetricDefinition

WAIT_CAUSE = "loco.wait.cause"
BLAME_AGENT = "loco.blame.agent"
BUDGET_STORE = "loco.budget.store"
LIMIT_DIRECTION = "loco.limit.direction"
RATELIMIT_KIND = "loco.ratelimit.kind"
CAPACITY_MODE = "loco.capacity.mode"
VERSION = "loco.version"
INACTIVE_REASON = "loco.inactive.reason"

_AGENT_RESOURCE = (key.AGENT, key.RESOURCE)
_BUDGET = (key.BUDGET_SCOPE, key.BUDGET_KEY, key.BUDGET_PERIOD)
_COUNTER, _SUM = InstrumentKind.COUNTER, InstrumentKind.OBSERVABLE_COUNTER
_GAUGE = InstrumentKind.OBSERVABLE_GAUGE

# fmt: off
PLANNED_METRICS = (
    MetricDefinition(
        "loco.wait.time", _SUM, "s", "Seconds of waiting.", (*_AGENT_RESOURCE, WAIT_CAUSE), optional=(BLAME_AGENT,)
    ),
    MetricDefinition("loco.slot.time", _SUM, "s", "Seconds that slots were held.", _AGENT_RESOURCE),
    MetricDefinition("loco.capacity.time", _SUM, "s", "Seconds that slots existed.", (key.RESOURCE,)),
    MetricDefinition("loco.pause.time", _SUM, "s", "Seconds of pauses before retries.", _AGENT_RESOURCE),
    MetricDefinition("loco.budget.charged", _SUM, "USD", "Charged by this process.", _BUDGET),
    MetricDefinition("loco.budget.weight.charged", _SUM, "{weight}", "Charged by this process.", _BUDGET),
    MetricDefinition(
        "loco.budget.reset.timestamp", _GAUGE, "s", "When the period ends.", (*_BUDGET, key.BUDGET_UNIT, BUDGET_STORE)
    ),
    MetricDefinition(
        "loco.info", _GAUGE, "{resource}", "Settings.", (key.RESOURCE, key.POLICY, CAPACITY_MODE, VERSION)
    ),
    MetricDefinition("loco.children", _GAUGE, "{process}", "Forks that this page does not show.", ()),
    MetricDefinition("loco.resource.saturation", _GAUGE, "{saturation}", "1 is full.", (key.RESOURCE,)),
    MetricDefinition("loco.limit.reference", _GAUGE, "{request}", "The reference limit.", (key.RESOURCE,)),
    MetricDefinition("loco.limit.changes", _COUNTER, "{change}", "Changes.", (key.RESOURCE, LIMIT_DIRECTION)),
    MetricDefinition("loco.ratelimit.limit", _GAUGE, "{unit}", "The provider's limit.", (key.RESOURCE, RATELIMIT_KIND)),
    MetricDefinition("loco.ratelimit.remaining", _GAUGE, "{unit}", "What is left.", (key.RESOURCE, RATELIMIT_KIND)),
    MetricDefinition("loco.requests.waiting.max", _GAUGE, "{request}", "Bound of the queue.", ()),
)
# fmt: on

PLANNED_LABELS = {
    "loco.throttles": (key.THROTTLE_KIND,),
    "loco.active": (INACTIVE_REASON,),
    "loco.budget.decisions": (key.BUDGET_PERIOD, key.BUDGET_UNIT),
    **{
        f"loco.budget.{name}": (BUDGET_STORE,)
        for name in ("limit", "spent", "reserved", "weight.limit", "weight.spent", "weight.reserved")
    },
}
"""Attributes that metrics of the catalogue are to get."""
