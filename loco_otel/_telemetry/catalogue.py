"""The catalogue of everything that loco-otel emits: one row per metric, one per span.

Instruments, the docs page, dashboards and their tests are generated from it.
"""

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry import buckets
from loco_otel._telemetry.definitions import InstrumentKind as InstrumentKind
from loco_otel._telemetry.definitions import MetricDefinition as MetricDefinition
from loco_otel._telemetry.definitions import SpanDefinition as SpanDefinition
from loco_otel._telemetry.definitions import SpanEventDefinition as SpanEventDefinition

_INFERENCE_ATTRIBUTES = (key.OPERATION, key.PROVIDER, key.MODEL)
_INFERENCE_OPTIONAL = (key.RESPONSE_MODEL, key.SERVER_ADDRESS, key.SERVER_PORT)

# fmt: off
REQUESTS = MetricDefinition(
    "loco.acquire.requests", InstrumentKind.COUNTER, "{request}", "Requests for a slot that were decided.",
    (key.AGENT, key.RESOURCE, key.OUTCOME),
)
GRANTS = MetricDefinition(
    "loco.grants", InstrumentKind.COUNTER, "{grant}", "Slots given, those after a retry's pause included.",
    (key.RESOURCE, key.GRANT_REASON),
)
WAIT_DURATION = MetricDefinition(
    "loco.wait.duration", InstrumentKind.HISTOGRAM, "s", "Time from submit to grant or rejection.",
    (key.AGENT, key.RESOURCE, key.OUTCOME, key.PRIORITY), buckets.WAIT_SECONDS,
)
SLOT_TIME = MetricDefinition(
    "loco.slot.time", InstrumentKind.OBSERVABLE_COUNTER, "s",
    "Time that slots were held, calls under way included; a shared slot counts once, for its host.",
    (key.AGENT, key.RESOURCE),
)
CAPACITY_TIME = MetricDefinition(
    "loco.capacity.time", InstrumentKind.OBSERVABLE_COUNTER, "s",
    "Time that slots existed, held or not: `loco.slot.time` per `loco.capacity.time` is the utilization. Of the "
    "slots of a shared engine, each process counts an equal part. It does not increase while a resource is unlimited.",
    (key.RESOURCE,),
)
PAUSE_TIME = MetricDefinition(
    "loco.pause.time", InstrumentKind.OBSERVABLE_COUNTER, "s",
    "Time between a refused attempt and the next one, in which a call holds no slot; pauses under way included.",
    (key.AGENT, key.RESOURCE),
)
WAIT_TICKS = MetricDefinition(
    "loco.wait.ticks", InstrumentKind.HISTOGRAM, "{tick}", "Releases that passed from submit to grant.",
    (key.AGENT, key.RESOURCE, key.PRIORITY), buckets.WAIT_TICKS,
)
HOLD_DURATION = MetricDefinition(
    "loco.hold.duration", InstrumentKind.HISTOGRAM, "s",
    "Time that a slot was held, from grant to the end of the answer or a retry's pause.",
    (key.AGENT, key.RESOURCE), buckets.HOLD_SECONDS,
)
REQUESTS_WAITING = MetricDefinition(
    "loco.requests.waiting", InstrumentKind.OBSERVABLE_GAUGE, "{request}", "Requests that wait.",
    (key.AGENT, key.RESOURCE),
)
REQUESTS_ACTIVE = MetricDefinition(
    "loco.requests.active", InstrumentKind.OBSERVABLE_GAUGE, "{request}", "Requests that hold a slot.",
    (key.AGENT, key.RESOURCE),
)
WAITING_MAX = MetricDefinition(
    "loco.requests.waiting.max", InstrumentKind.OBSERVABLE_GAUGE, "{request}",
    "Requests that may wait, of all resources together; no point while there is no bound.", (),
)
QUEUE_WEIGHT = MetricDefinition(
    "loco.queue.weight", InstrumentKind.OBSERVABLE_GAUGE, "{weight}", "Weight that an agent has queued (Qi).",
    (key.AGENT, key.RESOURCE),
)
QUEUE_AGE = MetricDefinition(
    "loco.queue.age", InstrumentKind.OBSERVABLE_GAUGE, "{tick}", "Age of an agent's oldest request in releases (Di).",
    (key.AGENT, key.RESOURCE),
)
QUEUE_WAIT = MetricDefinition(
    "loco.queue.wait", InstrumentKind.OBSERVABLE_GAUGE, "s",
    "How long an agent's oldest request has waited; grows even while nothing is released.",
    (key.AGENT, key.RESOURCE),
)
WAIT_TIME = MetricDefinition(
    "loco.wait.time", InstrumentKind.OBSERVABLE_COUNTER, "s",
    "Time waited, open waits included up to the collection, by what it was spent on; the causes sum to it.",
    (key.AGENT, key.RESOURCE, key.WAIT_CAUSE), optional=(key.BLAME_AGENT,),
)
LEASES_EXPIRED = MetricDefinition(
    "loco.leases.expired", InstrumentKind.COUNTER, "{lease}", "Slots taken back after too long without a sign of life.",
    (key.RESOURCE,),
)
BYPASSED = MetricDefinition(
    "loco.bypassed", InstrumentKind.COUNTER, "{request}", "Calls that went out unscheduled.", (key.BYPASS_REASON,)
)
EVENTS_DROPPED = MetricDefinition(
    "loco.events.dropped", InstrumentKind.OBSERVABLE_COUNTER, "{event}",
    "Events that were dropped as listeners (span processors, exporters) were too slow, or lost with an interrupted "
    "operation: spans and metrics lack them.",
    (),
)
RECOVERIES = MetricDefinition(
    "loco.recoveries", InstrumentKind.OBSERVABLE_COUNTER, "{recovery}",
    "Operations of the scheduler that an exception interrupted, after which its state was rebuilt.",
    (),
)
SCORE = MetricDefinition(
    "loco.load.score", InstrumentKind.OBSERVABLE_GAUGE, "{score}",
    "Score of an agent that competes for a slot (L); the highest is next.",
    (key.AGENT, key.RESOURCE),
)
CAPACITY = MetricDefinition(
    "loco.resource.capacity", InstrumentKind.OBSERVABLE_GAUGE, "{request}",
    "Slots of a resource; no point while it is unlimited.",
    (key.RESOURCE,),
)
SATURATION = MetricDefinition(
    "loco.resource.saturation", InstrumentKind.OBSERVABLE_GAUGE, "{saturation}",
    "Slots in use and requests that wait, in units of the slots: 1 is full, the rest is the queue; no point while "
    "unlimited.",
    (key.RESOURCE,),
)
LIMIT_REFERENCE = MetricDefinition(
    "loco.limit.reference", InstrumentKind.OBSERVABLE_GAUGE, "{request}",
    "The slots that an adaptive limit approaches: one below the number last refused, or the limit if that is higher; "
    "no point while unlimited.",
    (key.RESOURCE,),
)
LIMIT_CHANGES = MetricDefinition(
    "loco.limit.changes", InstrumentKind.COUNTER, "{change}",
    "Changes of the number of slots; the first limit after none is `down`.",
    (key.RESOURCE, key.LIMIT_DIRECTION),
)
GATE_CLOSED = MetricDefinition(
    "loco.gate.closed", InstrumentKind.OBSERVABLE_GAUGE, "s",
    "How much longer nothing is granted, whether slots are free or not; no point while the gate is open.",
    (key.RESOURCE, key.GATE_CAUSE), optional=(key.GATE_HEADER,),
)
RATE_LIMIT = MetricDefinition(
    "loco.ratelimit.limit", InstrumentKind.OBSERVABLE_GAUGE, "{unit}",
    "Requests or tokens that the provider allows, from the headers of its last answer that had them.",
    (key.RESOURCE, key.RATE_LIMIT_KIND),
)
RATE_LIMIT_REMAINING = MetricDefinition(
    "loco.ratelimit.remaining", InstrumentKind.OBSERVABLE_GAUGE, "{unit}",
    "Requests or tokens that remained at that answer.",
    (key.RESOURCE, key.RATE_LIMIT_KIND),
)
ALPHA = MetricDefinition(
    "loco.scheduler.alpha", InstrumentKind.OBSERVABLE_GAUGE, "{alpha}",
    "Share of the queue's weight in the score, against its age.",
    (key.RESOURCE,),
)
TICKS = MetricDefinition(
    "loco.scheduler.ticks", InstrumentKind.OBSERVABLE_COUNTER, "{tick}", "Releases.", (key.RESOURCE,),
)
FAIRNESS = MetricDefinition(
    "loco.fairness.index", InstrumentKind.OBSERVABLE_GAUGE, "{index}",
    "Jain's index of the weight served lately, from 1/agents to 1, over the agents that had a request waiting "
    "throughout; no point below two of them.",
    (key.RESOURCE,),
)
THROTTLES = MetricDefinition(
    "loco.throttles", InstrumentKind.COUNTER, "{throttle}",
    "Refusals by a provider (`load`, `spend`) and attempts without an answer in time (`timeout`); `error.type` is the "
    "status, `timeout`, or `spend_limit` for an exhausted account.",
    (key.RESOURCE, key.PROVIDER, key.ERROR_TYPE, key.THROTTLE_KIND),
)
TOKENS = MetricDefinition(
    "loco.tokens", InstrumentKind.COUNTER, "{token}",
    "Tokens of settled calls, estimated where the provider did not count them.",
    (key.AGENT, key.PROVIDER, key.MODEL, key.TOKEN_TYPE),
)
SPENT_WEIGHT = MetricDefinition(
    "loco.spend.weight", InstrumentKind.COUNTER, "{weight}", "Weight of settled calls.",
    (key.AGENT, key.PROVIDER, key.MODEL),
)
SPENT = MetricDefinition(
    "loco.spend", InstrumentKind.COUNTER, "USD",
    "Money that settled calls cost, by published prices or those of the settings.",
    (key.AGENT, key.TENANT, key.PROVIDER, key.MODEL),
)
UNPRICED = MetricDefinition(
    "loco.spend.unpriced", InstrumentKind.COUNTER, "{request}",
    "Settled calls of which all or a part has no known price; one for each kind.",
    (key.PROVIDER, key.MODEL, key.SPEND_KIND),
)
_BUDGET = (key.BUDGET_SCOPE, key.BUDGET_KEY, key.BUDGET_PERIOD)
BUDGET_CHARGED = MetricDefinition(
    "loco.budget.charged", InstrumentKind.OBSERVABLE_COUNTER, "USD",
    "What this process has charged to a budget in USD; a new period does not reset it.", _BUDGET,
)
BUDGET_WEIGHT_CHARGED = MetricDefinition(
    "loco.budget.weight.charged", InstrumentKind.OBSERVABLE_COUNTER, "{weight}",
    "What this process has charged to a budget in weight; a new period does not reset it.", _BUDGET,
)
BUDGET_RESET = MetricDefinition(
    "loco.budget.reset.timestamp", InstrumentKind.OBSERVABLE_GAUGE, "s",
    "When the period of a budget ends, in seconds since the epoch; no point for a budget in total.",
    (*_BUDGET, key.BUDGET_UNIT, key.BUDGET_STORE),
)
BUDGET_LIMIT = MetricDefinition(
    "loco.budget.limit", InstrumentKind.OBSERVABLE_GAUGE, "USD", "What a budget in USD may spend in its period.",
    (*_BUDGET, key.BUDGET_STORE),
)
BUDGET_SPENT = MetricDefinition(
    "loco.budget.spent", InstrumentKind.OBSERVABLE_GAUGE, "USD", "What it has spent in this period.",
    (*_BUDGET, key.BUDGET_STORE),
)
BUDGET_RESERVED = MetricDefinition(
    "loco.budget.reserved", InstrumentKind.OBSERVABLE_GAUGE, "USD", "What its calls under way are estimated to cost.",
    (*_BUDGET, key.BUDGET_STORE),
)
BUDGET_WEIGHT_LIMIT = MetricDefinition(
    "loco.budget.weight.limit", InstrumentKind.OBSERVABLE_GAUGE, "{weight}",
    "What a budget in weight may spend in its period.",
    (*_BUDGET, key.BUDGET_STORE),
)
BUDGET_WEIGHT_SPENT = MetricDefinition(
    "loco.budget.weight.spent", InstrumentKind.OBSERVABLE_GAUGE, "{weight}", "What it has spent in this period.",
    (*_BUDGET, key.BUDGET_STORE),
)
BUDGET_WEIGHT_RESERVED = MetricDefinition(
    "loco.budget.weight.reserved", InstrumentKind.OBSERVABLE_GAUGE, "{weight}",
    "What its calls under way are estimated to take.",
    (*_BUDGET, key.BUDGET_STORE),
)
BUDGET_DECISIONS = MetricDefinition(
    "loco.budget.decisions", InstrumentKind.COUNTER, "{decision}",
    "Calls that a budget had no room for, and what it did.",
    (*_BUDGET, key.BUDGET_UNIT, key.BUDGET_ACTION),
)
_RUN = (key.WORKFLOW, key.PRIORITY)
RUN_DURATION = MetricDefinition(
    "loco.run.duration", InstrumentKind.HISTOGRAM, "s",
    "Time from the first call of a run to the end of its last; recorded when its framework ends it, after it has been "
    "silent for `LOCO_RUN_IDLE_TIMEOUT`, or at the end of the process.",
    _RUN, buckets.RUN_SECONDS,
)
RUN_WAIT = MetricDefinition(
    "loco.run.wait", InstrumentKind.HISTOGRAM, "s",
    "Time that a run lost to waiting: at each moment the share of its calls that waited, of those that waited or were "
    "under way.",
    _RUN, buckets.WAIT_SECONDS,
)
RUN_SLOWDOWN = MetricDefinition(
    "loco.run.slowdown", InstrumentKind.HISTOGRAM, "{ratio}",
    "Duration of a run by what remains without `loco.run.wait`; no point for one that only waited.",
    _RUN, buckets.SLOWDOWNS,
)
RUNS_ACTIVE = MetricDefinition(
    "loco.runs.active", InstrumentKind.OBSERVABLE_GAUGE, "{run}", "Runs that have not ended.", _RUN,
)
LIMIT_DECISIONS = MetricDefinition(
    "loco.limit.decisions", InstrumentKind.COUNTER, "{decision}",
    "Calls that were refused at a limit, or would have been, or that were allowed with a warning.",
    (key.LIMIT_REASON, key.LIMIT_ACTION),
)
DURATION = MetricDefinition(
    "gen_ai.client.operation.duration", InstrumentKind.HISTOGRAM, "s",
    "Duration of calls whose inference span loco-otel creates, from the grant to the end of the answer.",
    _INFERENCE_ATTRIBUTES, buckets.GEN_AI_SECONDS, (*_INFERENCE_OPTIONAL, key.ERROR_TYPE),
)
TIME_TO_FIRST_CHUNK = MetricDefinition(
    "gen_ai.client.operation.time_to_first_chunk", InstrumentKind.HISTOGRAM, "s",
    "Time from the grant to the first chunk of streams whose inference span loco-otel creates.",
    _INFERENCE_ATTRIBUTES, buckets.GEN_AI_SECONDS, _INFERENCE_OPTIONAL,
)
TOKEN_USAGE = MetricDefinition(
    "gen_ai.client.token.usage", InstrumentKind.HISTOGRAM, "{token}",
    "Tokens of calls whose inference span loco-otel creates, where the provider counted them.",
    (*_INFERENCE_ATTRIBUTES, key.TOKEN_TYPE), buckets.GEN_AI_TOKENS, _INFERENCE_OPTIONAL,
)
ACTIVE = MetricDefinition(
    "loco.active", InstrumentKind.OBSERVABLE_GAUGE, "{instrumentor}",
    "1 for each SDK whose calls are scheduled; 0, with the reason, for each that loco-otel leaves unscheduled.",
    (key.SDK_NAME, key.SDK_VERSION), optional=(key.INACTIVE_REASON,),
)
INFO = MetricDefinition(
    "loco.info", InstrumentKind.OBSERVABLE_GAUGE, "{resource}", "1 for each resource, with its policy and limit.",
    (key.RESOURCE, key.POLICY, key.CAPACITY_MODE, key.VERSION),
)
CHILDREN = MetricDefinition(
    "loco.children", InstrumentKind.OBSERVABLE_GAUGE, "{process}",
    "Processes that were forked from this one and run: their calls are in their own metrics, not in these. No point "
    "before the first fork.",
    (),
)
ENGINE_MODE = MetricDefinition(
    "loco.engine.mode", InstrumentKind.OBSERVABLE_GAUGE, "{mode}",
    "1 for the mode in which the shared engine grants slots to this process, 0 for the others.", (key.ENGINE_MODE,),
)
ENGINE_PROCESSES = MetricDefinition(
    "loco.engine.processes", InstrumentKind.OBSERVABLE_GAUGE, "{process}",
    "Processes that share the engine. The same from all of them: aggregate it by `max`.", (),
)
ENGINE_OVERBOOKED = MetricDefinition(
    "loco.engine.overbooked", InstrumentKind.OBSERVABLE_GAUGE, "{request}",
    "Leases above the capacity, of processes that had lost theirs; the same from all.", (key.RESOURCE,),
)
ENGINE_DURATION = MetricDefinition(
    "loco.engine.duration", InstrumentKind.HISTOGRAM, "s", "Time from a batch to the engine's answer.", (),
    buckets.ENGINE_SECONDS,
)
ENGINE_ERRORS = MetricDefinition(
    "loco.engine.errors", InstrumentKind.OBSERVABLE_COUNTER, "{error}",
    "Failures of the connection to the engine, or errors that it replied.", (key.ENGINE_ERROR,),
)
# fmt: on

METRICS = (
    REQUESTS, GRANTS, WAIT_DURATION, SLOT_TIME, CAPACITY_TIME, PAUSE_TIME, WAIT_TIME, WAIT_TICKS, HOLD_DURATION,
    REQUESTS_WAITING, REQUESTS_ACTIVE, WAITING_MAX, QUEUE_WEIGHT, QUEUE_AGE, QUEUE_WAIT, LEASES_EXPIRED, BYPASSED,
    EVENTS_DROPPED, RECOVERIES, SCORE, CAPACITY, SATURATION, LIMIT_REFERENCE, LIMIT_CHANGES, GATE_CLOSED, RATE_LIMIT,
    RATE_LIMIT_REMAINING, ALPHA, TICKS, FAIRNESS, THROTTLES, TOKENS, SPENT, SPENT_WEIGHT, UNPRICED, BUDGET_CHARGED,
    BUDGET_WEIGHT_CHARGED, BUDGET_RESET, BUDGET_LIMIT, BUDGET_SPENT, BUDGET_RESERVED, BUDGET_WEIGHT_LIMIT,
    BUDGET_WEIGHT_SPENT, BUDGET_WEIGHT_RESERVED, BUDGET_DECISIONS, RUN_DURATION,
    RUN_WAIT, RUN_SLOWDOWN, RUNS_ACTIVE, LIMIT_DECISIONS, DURATION, TIME_TO_FIRST_CHUNK, TOKEN_USAGE, ACTIVE,
    INFO, CHILDREN, ENGINE_MODE, ENGINE_PROCESSES, ENGINE_OVERBOOKED, ENGINE_DURATION, ENGINE_ERRORS,
)  # fmt: skip
"""Every metric."""

EVENT_THROTTLE = SpanEventDefinition(
    "loco.throttle",
    "The provider throttled the call. On the inference span; if that is foreign, on the acquire span, "
    "which has ended by then.",
    (key.THROTTLE_KIND,),
    optional=(key.STATUS_CODE, key.RETRY_AFTER),
)
_SPEND_ATTRIBUTES = (
    key.SPENT_WEIGHT, key.SPEND_ESTIMATED, key.SPENT_USD, key.SPENT_INPUT, key.SPENT_OUTPUT, key.SPEND_UNPRICED,
    key.BUDGET_REMAINING, key.BUDGET_ACTION, key.BUDGET_MODEL,
)  # fmt: skip
_CALLER_ATTRIBUTES = (key.TENANT, key.TEAM, key.WORKFLOW, key.CONVERSATION, key.RUN)
_WAIT_ATTRIBUTES = (
    key.WAIT_REASON, key.WAIT_QUEUE_WEIGHT, key.QUEUE_POSITION, key.WAITING, key.CAPACITY, key.WAIT_SLOT, key.WAIT_SELF,
    key.WAIT_BACKOFF, key.WAIT_REQUESTS, key.WAIT_TOKENS, key.WAIT_RAMP, key.WAIT_RESERVED, key.WAIT_BUDGET,
    key.WAIT_UNKNOWN, key.BLAME_AGENTS, key.BLAME_SECONDS,
)  # fmt: skip
_GRANT_ATTRIBUTES = (
    key.SCORE, key.ALPHA, key.QUEUE_WEIGHT, key.QUEUE_AGE, key.TICK, key.GRANT_REASON, key.RUN_ATTAINED,
)  # fmt: skip
_BUDGET_ATTRIBUTES = (
    key.BUDGET_SCOPE, key.BUDGET_KEY, key.BUDGET_PERIOD, key.BUDGET_UNIT, key.BUDGET_LIMIT, key.BUDGET_SPENT,
    key.BUDGET_RESERVED,
)  # fmt: skip
EVENT_BUDGET = SpanEventDefinition(
    "loco.budget",
    "A budget had no room for the call; one event for each such budget.",
    (*_BUDGET_ATTRIBUTES, key.BUDGET_ACTION),
    optional=(key.BUDGET_MODEL,),
)
EVENT_LIMIT = SpanEventDefinition(
    "loco.limit",
    "A limit refused the call, would have refused it, or warned; for budgets beside `loco.budget`.",
    (key.LIMIT_REASON, key.LIMIT_ACTION),
)
EVENT_THRESHOLD = SpanEventDefinition(
    "loco.budget.threshold",
    "With this call a budget reached a threshold for the first time in its period. On the span that has "
    "`loco.spend.weight`.",
    (*_BUDGET_ATTRIBUTES, key.BUDGET_THRESHOLD),
)

SPAN_ACQUIRE = SpanDefinition(
    "acquire {resource}",
    "INTERNAL",
    "From submit to grant or rejection, one per wait: a retry's second wait has its own. "
    "Links to the acquire spans of the calls that held slots longest during the wait, at most 16, each with "
    "`loco.agent.id` and `loco.blame.duration`. "
    "ERROR when rejected, with the outcome as `error.type`. The attributes from `loco.load.score` on are those of a "
    "grant, those from `loco.wait.reason` on of a wait, and those from `loco.spend.weight` on of a settled call whose "
    "inference span is foreign.",
    (
        key.AGENT, key.RESOURCE, key.TASK_WEIGHT, key.TASK_TYPE, key.POLICY, key.OUTCOME, key.WAIT_DURATION,
        key.WAIT_TICKS, key.PRIORITY,
    ),
    optional=(
        key.PROVIDER, key.MODEL, key.DEADLINE, *_CALLER_ATTRIBUTES, key.ERROR_TYPE, *_GRANT_ATTRIBUTES,
        *_WAIT_ATTRIBUTES, *_SPEND_ATTRIBUTES,
    ),
    events=(EVENT_BUDGET, EVENT_LIMIT, EVENT_THROTTLE, EVENT_THRESHOLD),
    link=(key.AGENT, key.BLAME_DURATION),
)  # fmt: skip
SPAN_CALL = SpanDefinition(
    "call {agent}",
    "INTERNAL",
    "Around the wait and the call, only where the program has no span of its own, "
    "so that both share one trace. "
    "ERROR when the call failed, with the exception's class as `error.type`.",
    (key.AGENT,),
    optional=(key.PROVIDER, key.MODEL, *_CALLER_ATTRIBUTES, key.ERROR_TYPE),
)

SPAN_INFERENCE = SpanDefinition(
    "{operation} {model}",
    "CLIENT",
    "From the grant to the end of the answer, retries and their pauses included. Not where another instrumentor or the "
    "SDK itself makes an inference span: the wait then goes on theirs, as `loco.wait.duration`. "
    "ERROR when the call failed, with the exception's class as `error.type`; an answer that the program stopped "
    "reading is no error.",
    (key.OPERATION, key.PROVIDER, key.AGENT),
    optional=(
        key.MODEL, *_CALLER_ATTRIBUTES, key.OUTPUT_TYPE, key.REASONING_LEVEL, key.PREVIOUS_RESPONSE, key.SERVICE_TIER,
        key.SERVER_ADDRESS, key.SERVER_PORT, key.STREAM, key.MAX_TOKENS, key.TEMPERATURE, key.TOP_P,
        key.TOP_K, key.FREQUENCY_PENALTY, key.PRESENCE_PENALTY, key.SEED, key.CHOICE_COUNT, key.RESPONSE_ID,
        key.RESPONSE_MODEL, key.FINISH_REASONS, key.TIME_TO_FIRST_CHUNK, key.INPUT_TOKENS, key.OUTPUT_TOKENS,
        key.CACHE_READ_TOKENS, key.CACHE_WRITE_TOKENS, key.REASONING_TOKENS, key.RESPONSE_SERVICE_TIER,
        key.COST_AMOUNT, key.COST_CURRENCY, key.COST_SOURCE, key.RESEND_COUNT, key.ERROR_TYPE,
        *_SPEND_ATTRIBUTES,
    ),
    events=(EVENT_THROTTLE, EVENT_THRESHOLD),
)  # fmt: skip

SPANS = (SPAN_ACQUIRE, SPAN_INFERENCE, SPAN_CALL)
"""Every span."""
