"""All attribute keys: loco-otel's own, and those taken from OpenTelemetry's conventions.

The `gen_ai.*` names follow the GenAI semantic conventions. Those are unstable, and their constants on PyPI are
deprecated, so a changed name is changed in this file only. `error.type` and `http.*` are stable. A key has one name and
one meaning on spans and metrics.
"""

from typing import NamedTuple

from loco_otel.events import (
    BypassReason,
    GateCause,
    GrantReason,
    InactiveReason,
    LimitAction,
    LimitReason,
    Outcome,
    Priority,
    ThrottleKind,
    WaitReason,
)
from loco_otel.money import Action, BudgetStore, Period, Scope, Unit
from loco_otel.snapshots import CapacityMode, EngineMode

AGENT = "loco.agent.id"
RESOURCE = "loco.resource.name"
RUN = "loco.run.id"
RUN_ATTAINED = "loco.run.attained"
PRIORITY = "loco.priority"
DEADLINE = "loco.deadline"
TENANT = "loco.tenant.id"
TEAM = "loco.team.id"
OUTCOME = "loco.outcome"
POLICY = "loco.policy"
TASK_WEIGHT = "loco.task.weight"
TASK_TYPE = "loco.task.type"
WAIT_DURATION = "loco.wait.duration"
WAIT_TICKS = "loco.wait.ticks"
WAIT_REASON = "loco.wait.reason"
WAIT_CAUSE = "loco.wait.cause"
WAIT_QUEUE_WEIGHT = "loco.wait.queue_weight"
WAIT_SLOT = "loco.wait.time.slot"
WAIT_SELF = "loco.wait.time.self"
WAIT_BACKOFF = "loco.wait.time.backoff"
WAIT_REQUESTS = "loco.wait.time.requests"
WAIT_TOKENS = "loco.wait.time.tokens"
WAIT_RAMP = "loco.wait.time.ramp"
WAIT_RESERVED = "loco.wait.time.reserved"
WAIT_BUDGET = "loco.wait.time.budget"
WAIT_UNKNOWN = "loco.wait.time.unknown"
BLAME_AGENT = "loco.blame.agent"
BLAME_AGENTS = "loco.blame.agents"
BLAME_SECONDS = "loco.blame.seconds"
BLAME_DURATION = "loco.blame.duration"
QUEUE_WEIGHT = "loco.queue.weight"
QUEUE_POSITION = "loco.queue.position"
QUEUE_AGE = "loco.queue.age"
CAPACITY = "loco.resource.capacity"
CAPACITY_MODE = "loco.capacity.mode"
LIMIT_DIRECTION = "loco.limit.direction"
LIMIT_REASON = "loco.limit.reason"
LIMIT_ACTION = "loco.limit.action"
RATE_LIMIT_KIND = "loco.ratelimit.kind"
WAITING = "loco.requests.waiting"
SCORE = "loco.load.score"
ALPHA = "loco.scheduler.alpha"
TICK = "loco.scheduler.tick"
GRANT_REASON = "loco.grant.reason"
BYPASS_REASON = "loco.bypass.reason"
ENGINE_MODE = "loco.engine.mode"
ENGINE_ERROR = "loco.engine.error"
THROTTLE_KIND = "loco.throttle.kind"
RETRY_AFTER = "loco.throttle.retry_after"
GATE_CAUSE = "loco.gate.cause"
GATE_HEADER = "loco.gate.header"
SPENT_WEIGHT = "loco.spend.weight"
SPENT_USD = "loco.spend.usd"
SPENT_INPUT = "loco.spend.input_tokens"
SPENT_OUTPUT = "loco.spend.output_tokens"
SPEND_ESTIMATED = "loco.spend.estimated"
SPEND_KIND = "loco.spend.kind"
SPEND_UNPRICED = "loco.spend.unpriced"
BUDGET_SCOPE = "loco.budget.scope"
BUDGET_KEY = "loco.budget.key"
BUDGET_PERIOD = "loco.budget.period"
BUDGET_UNIT = "loco.budget.unit"
BUDGET_STORE = "loco.budget.store"
BUDGET_ACTION = "loco.budget.action"
BUDGET_LIMIT = "loco.budget.limit"
BUDGET_SPENT = "loco.budget.spent"
BUDGET_RESERVED = "loco.budget.reserved"
BUDGET_REMAINING = "loco.budget.remaining_usd"
BUDGET_THRESHOLD = "loco.budget.threshold"
BUDGET_MODEL = "loco.budget.model"
SDK_NAME = "loco.sdk.name"
SDK_VERSION = "loco.sdk.version"
INACTIVE_REASON = "loco.inactive.reason"
VERSION = "loco.version"

WORKFLOW = "gen_ai.workflow.name"
CONVERSATION = "gen_ai.conversation.id"
OUTPUT_TYPE = "gen_ai.output.type"
REASONING_LEVEL = "gen_ai.request.reasoning.level"
PREVIOUS_RESPONSE = "gen_ai.request.previous_response.id"
SERVICE_TIER = "openai.request.service_tier"
RESPONSE_SERVICE_TIER = "openai.response.service_tier"
OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
MODEL = "gen_ai.request.model"
STREAM = "gen_ai.request.stream"
MAX_TOKENS = "gen_ai.request.max_tokens"
TEMPERATURE = "gen_ai.request.temperature"
TOP_P = "gen_ai.request.top_p"
TOP_K = "gen_ai.request.top_k"
FREQUENCY_PENALTY = "gen_ai.request.frequency_penalty"
PRESENCE_PENALTY = "gen_ai.request.presence_penalty"
SEED = "gen_ai.request.seed"
CHOICE_COUNT = "gen_ai.request.choice.count"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS = "gen_ai.usage.cache_write.input_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
COST_AMOUNT = "gen_ai.usage.cost.amount"
COST_CURRENCY = "gen_ai.usage.cost.currency"
COST_SOURCE = "gen_ai.usage.cost.source"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - the name of an attribute
ERROR_TYPE = "error.type"
STATUS_CODE = "http.response.status_code"
RESEND_COUNT = "http.request.resend_count"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

OPERATIONS = ("chat", "embeddings", "generate_content", "text_completion")
"""The values of `gen_ai.operation.name` that are inference."""
INVOKE_AGENT = "invoke_agent"
"""A turn of an agent in a child process."""
USD = "USD"
COST_SOURCES = ("provider", "local")
INPUT = "input"
OUTPUT = "output"
SPEND_LIMIT = "spend_limit"
"""The `error.type` of a throttle that a lower rate does not end."""
TIMEOUT = "timeout"
"""The `error.type` of a throttle without an answer."""
SLOT = "slot"
"""The cause of a wait: another agent held a slot. The next ones are causes too, and those of `GateCause`."""
SELF = "self"
RAMP = "ramp"
RESERVED = "reserved"
BUDGET = "budget"
UNKNOWN = "unknown"
"""On metrics, the value of a missing attribute, so that all points have the same keys. Spans omit the key."""
OTHER = "other"
"""On metrics, the value that replaces all values above the limit."""
UP = "up"
DOWN = "down"
REQUESTS = "requests"
TOKENS = "tokens"


class AttributeDefinition(NamedTuple):
    """One key with its type and values."""

    key: str
    type: str
    """`string`, `int`, `double`, `boolean`, `string[]` or `double[]`, as in OpenTelemetry's registry."""
    meaning: str
    values: tuple[str, ...] = ()
    """All possible values; empty if the set is open."""
    is_limited: bool = False
    """On metrics, values above the limit become `other`."""

    @property
    def prometheus_label(self) -> str:
        """The label of this key in Prometheus, by its exporter and OTLP."""
        return self.key.replace(".", "_")


ATTRIBUTES = {
    row.key: row
    for row in (
        AttributeDefinition(AGENT, "string", "The agent of the request.", is_limited=True),
        AttributeDefinition(
            RESOURCE, "string", "The requested resource; several names are joined by `+`.", is_limited=True
        ),
        AttributeDefinition(TENANT, "string", "The tenant of the agent.", is_limited=True),
        AttributeDefinition(RUN, "string", "The run that the call belongs to. On no metric."),
        AttributeDefinition(RUN_ATTAINED, "double", "Weight of the run's calls that had ended before the grant."),
        AttributeDefinition(PRIORITY, "string", "How urgent the request is.", tuple(Priority)),
        AttributeDefinition(
            DEADLINE, "double", "Seconds from the request to its deadline; negative if it came too late."
        ),
        AttributeDefinition(TEAM, "string", "The team of the agent."),
        AttributeDefinition(OUTCOME, "string", "How the wait ended.", tuple(Outcome)),
        AttributeDefinition(POLICY, "string", "The policy: `load`, `fair`, `fifo` or a custom one."),
        AttributeDefinition(TASK_WEIGHT, "double", "Weight of the request."),
        AttributeDefinition(TASK_TYPE, "string", "Kind of task, if the program sets one."),
        AttributeDefinition(WAIT_DURATION, "double", "Seconds from submit to grant or rejection."),
        AttributeDefinition(WAIT_TICKS, "int", "Ticks (releases) during the wait."),
        AttributeDefinition(
            WAIT_REASON, "string", "What the request waited for, as its wait began.", tuple(WaitReason)
        ),
        AttributeDefinition(
            WAIT_CAUSE,
            "string",
            "What the time was spent on: slots of other agents or of the agent itself, a gate that was closed, slots "
            "that an adaptive limit withholds (`ramp`) or that are reserved, the check of budgets; `unknown` if events "
            "of the wait are missing.",
            (SLOT, SELF, *GateCause, RAMP, RESERVED, BUDGET, UNKNOWN),
        ),
        AttributeDefinition(
            WAIT_QUEUE_WEIGHT, "double", "Weight that the agent had queued as the wait began, this request included."
        ),
        AttributeDefinition(WAIT_SLOT, "double", "Seconds of the wait due to slots that other agents held."),
        AttributeDefinition(WAIT_SELF, "double", "Seconds of the wait due to slots that the agent itself held."),
        AttributeDefinition(WAIT_BACKOFF, "double", "Seconds of the wait due to a pause that the provider asked for."),
        AttributeDefinition(WAIT_REQUESTS, "double", "Seconds of the wait due to the limit of requests per minute."),
        AttributeDefinition(WAIT_TOKENS, "double", "Seconds of the wait due to the limit of tokens per minute."),
        AttributeDefinition(WAIT_RAMP, "double", "Seconds of the wait due to slots that an adaptive limit withheld."),
        AttributeDefinition(
            WAIT_RESERVED, "double", "Seconds of the wait due to free slots that were reserved for other requests."
        ),
        AttributeDefinition(WAIT_BUDGET, "double", "Seconds of the wait due to the check of budgets."),
        AttributeDefinition(WAIT_UNKNOWN, "double", "Seconds of the wait whose events are missing."),
        AttributeDefinition(
            BLAME_AGENT, "string", "The agent that held the slots, if the cause is `slot`.", is_limited=True
        ),
        AttributeDefinition(
            BLAME_AGENTS,
            "string[]",
            "The other agents that held slots during the wait: the five longest, then `other`.",
        ),
        AttributeDefinition(BLAME_SECONDS, "double[]", "Seconds of the wait due to each of `loco.blame.agents`."),
        AttributeDefinition(
            BLAME_DURATION, "double", "Seconds for which the linked call held its slot during the wait."
        ),
        AttributeDefinition(QUEUE_WEIGHT, "double", "Weight that the agent has queued, this request included (Qi)."),
        AttributeDefinition(QUEUE_POSITION, "int", "Position in the agent's own queue; 1 is next."),
        AttributeDefinition(QUEUE_AGE, "int", "Age of the agent's oldest request, in ticks (Di)."),
        AttributeDefinition(CAPACITY, "int", "Slots of the resource."),
        AttributeDefinition(
            CAPACITY_MODE,
            "string",
            "`fixed`; `auto` where the provider's refusals set the limit; `unlimited` for a resource without limit.",
            tuple(CapacityMode),
        ),
        AttributeDefinition(LIMIT_DIRECTION, "string", "How the number of slots changed.", (UP, DOWN)),
        AttributeDefinition(
            LIMIT_REASON,
            "string",
            "What refuses a call: a budget (`run_*` for those of a run), the run's seconds or repeated tool calls, a "
            "stop, the bound of waiters, or the time that it may wait.",
            tuple(LimitReason),
        ),
        AttributeDefinition(
            LIMIT_ACTION,
            "string",
            "`refused`; `warned` half way to the limit; `would` where `LOCO_MODE` is `observe` and the call was sent.",
            tuple(LimitAction),
        ),
        AttributeDefinition(RATE_LIMIT_KIND, "string", "What the provider limits per time.", (REQUESTS, TOKENS)),
        AttributeDefinition(WAITING, "int", "Requests that wait for the resource, this one included."),
        AttributeDefinition(
            SCORE, "double", "The winning score (L; under `fair` weights behind V); absent if a slot was free."
        ),
        AttributeDefinition(ALPHA, "double", "Share of the queue's weight in the score, against its age."),
        AttributeDefinition(TICK, "int", "The resource's tick."),
        AttributeDefinition(GRANT_REASON, "string", "Why the request was granted.", tuple(GrantReason)),
        AttributeDefinition(BYPASS_REASON, "string", "Why the call was not scheduled.", tuple(BypassReason)),
        AttributeDefinition(
            ENGINE_MODE, "string", "How slots are granted by a process that shares an engine.", tuple(EngineMode)
        ),
        AttributeDefinition(
            ENGINE_ERROR,
            "string",
            "What failed: the first word of the server's error, as NOSCRIPT, or an exception.",
        ),
        AttributeDefinition(THROTTLE_KIND, "string", "Meaning of the provider's refusal.", tuple(ThrottleKind)),
        AttributeDefinition(RETRY_AFTER, "double", "Seconds after which the provider accepts a retry."),
        AttributeDefinition(
            GATE_CAUSE,
            "string",
            "What keeps a resource closed: a pause that its provider asks for, or a rate per minute that is used up.",
            tuple(GateCause),
        ),
        AttributeDefinition(GATE_HEADER, "string", "The header in which the provider asks for the pause."),
        AttributeDefinition(SPENT_WEIGHT, "double", "Weight of the call, by its actual tokens if known."),
        AttributeDefinition(SPENT_USD, "double", "Cost of the call in USD; absent if the price is unknown."),
        AttributeDefinition(SPENT_INPUT, "int", "Tokens sent."),
        AttributeDefinition(SPENT_OUTPUT, "int", "Tokens received."),
        AttributeDefinition(SPEND_ESTIMATED, "boolean", "True if the provider reported no usage."),
        AttributeDefinition(
            SPEND_KIND,
            "string",
            "What has no known price, such as `web_searches`; `all` for a model without one.",
            is_limited=True,
        ),
        AttributeDefinition(
            SPEND_UNPRICED, "string[]", "What of the call has no known price and is missing in `loco.spend.usd`."
        ),
        AttributeDefinition(
            BUDGET_SCOPE, "string", "The kind of entity whose spending the budget limits.", tuple(Scope)
        ),
        AttributeDefinition(
            BUDGET_KEY,
            "string",
            "The agent, tenant, team, model or workflow; `*` for all together. On metrics, runs and sessions are "
            "`other`.",
            is_limited=True,
        ),
        AttributeDefinition(BUDGET_PERIOD, "string", "Time after which the budget resets.", tuple(Period)),
        AttributeDefinition(BUDGET_UNIT, "string", "Unit of the budget.", tuple(Unit)),
        AttributeDefinition(
            BUDGET_STORE,
            "string",
            "`memory`: each process has amounts of its own, so sum them. `ledger`: the processes of one file or server "
            "report the same amounts, so take the maximum.",
            tuple(BudgetStore),
        ),
        AttributeDefinition(BUDGET_ACTION, "string", "Action of a budget without room.", tuple(Action)),
        AttributeDefinition(BUDGET_LIMIT, "double", "Limit of the budget per period, in its unit."),
        AttributeDefinition(BUDGET_SPENT, "double", "Amount that the budget has spent."),
        AttributeDefinition(BUDGET_RESERVED, "double", "Estimated cost of the budget's calls in flight."),
        AttributeDefinition(BUDGET_REMAINING, "double", "Amount left in the tightest USD budget of the call."),
        AttributeDefinition(BUDGET_THRESHOLD, "int", "Percent of the limit."),
        AttributeDefinition(BUDGET_MODEL, "string", "The cheaper model that the call is sent with."),
        AttributeDefinition(SDK_NAME, "string", "The SDK."),
        AttributeDefinition(SDK_VERSION, "string", "Its version."),
        AttributeDefinition(
            INACTIVE_REASON, "string", "Why the calls of an SDK are not scheduled.", tuple(InactiveReason)
        ),
        AttributeDefinition(VERSION, "string", "The version of loco-otel."),
        AttributeDefinition(WORKFLOW, "string", "The workflow that the call belongs to.", is_limited=True),
        AttributeDefinition(CONVERSATION, "string", "The conversation or session that the call belongs to."),
        AttributeDefinition(OUTPUT_TYPE, "string", "Type of the requested answer: `text` or `json`."),
        AttributeDefinition(REASONING_LEVEL, "string", "Requested level of reasoning, in the provider's words."),
        AttributeDefinition(PREVIOUS_RESPONSE, "string", "Provider's id of the answer that the request continues."),
        AttributeDefinition(SERVICE_TIER, "string", "Requested service tier."),
        AttributeDefinition(RESPONSE_SERVICE_TIER, "string", "Service tier of the answer."),
        AttributeDefinition(PROVIDER, "string", "Provider of the model.", is_limited=True),
        AttributeDefinition(MODEL, "string", "Model that was requested.", is_limited=True),
        AttributeDefinition(OPERATION, "string", "Operation of the model.", (*OPERATIONS, INVOKE_AGENT)),
        AttributeDefinition(STREAM, "boolean", "True if the answer is streamed."),
        AttributeDefinition(MAX_TOKENS, "int", "Most tokens that may be generated."),
        AttributeDefinition(TEMPERATURE, "double", "Requested value."),
        AttributeDefinition(TOP_P, "double", "Requested value."),
        AttributeDefinition(TOP_K, "int", "Requested value."),
        AttributeDefinition(FREQUENCY_PENALTY, "double", "Requested value."),
        AttributeDefinition(PRESENCE_PENALTY, "double", "Requested value."),
        AttributeDefinition(SEED, "int", "Requested value."),
        AttributeDefinition(CHOICE_COUNT, "int", "Number of requested answers, if it is not one."),
        AttributeDefinition(RESPONSE_ID, "string", "The provider's id of its answer."),
        AttributeDefinition(RESPONSE_MODEL, "string", "Model in the answer.", is_limited=True),
        AttributeDefinition(FINISH_REASONS, "string[]", "Why the model stopped, one for each choice."),
        AttributeDefinition(TIME_TO_FIRST_CHUNK, "double", "Seconds from the request to the first chunk of a stream."),
        AttributeDefinition(INPUT_TOKENS, "int", "Tokens sent, as the provider counts them, cached ones included."),
        AttributeDefinition(OUTPUT_TOKENS, "int", "Tokens generated, as the provider counts them."),
        AttributeDefinition(CACHE_READ_TOKENS, "int", "Tokens sent that were read from the provider's cache."),
        AttributeDefinition(CACHE_WRITE_TOKENS, "int", "Tokens sent that were written to the provider's cache."),
        AttributeDefinition(REASONING_TOKENS, "int", "Tokens generated for reasoning."),
        AttributeDefinition(COST_AMOUNT, "double", "Money that the call cost, if the proposal is opted in to."),
        AttributeDefinition(COST_CURRENCY, "string", "Currency of the cost.", (USD,)),
        AttributeDefinition(
            COST_SOURCE, "string", "`provider` for a charge in the answer, `local` for a computed one.", COST_SOURCES
        ),
        AttributeDefinition(TOKEN_TYPE, "string", "Direction of the tokens.", (INPUT, OUTPUT)),
        AttributeDefinition(ERROR_TYPE, "string", "Class of the error.", is_limited=True),
        AttributeDefinition(STATUS_CODE, "int", "HTTP status of the provider's answer."),
        AttributeDefinition(RESEND_COUNT, "int", "Number of times that the SDK resent the request."),
        AttributeDefinition(SERVER_ADDRESS, "string", "Host that was called.", is_limited=True),
        AttributeDefinition(SERVER_PORT, "int", "Its port."),
    )
}
"""Each attribute under its key."""
