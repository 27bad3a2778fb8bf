"""Every attribute key in one place: loco-otel's own, and those taken from OpenTelemetry's conventions.

The `gen_ai.*` names follow the GenAI semantic conventions. Those are not stable, and their constants on PyPI
are deprecated: when a name changes there, it changes in this file and nowhere else. `error.type` and `http.*`
are stable. A key means, and is called, the same on spans and on metrics.
"""

from typing import NamedTuple

from loco_otel.events import BypassReason, GrantReason, Outcome, ThrottleKind, WaitReason
from loco_otel.money import Action, Period, Scope, Unit

AGENT = "loco.agent.id"
RESOURCE = "loco.resource.name"
TENANT = "loco.tenant.id"
OUTCOME = "loco.outcome"
POLICY = "loco.policy"
TASK_WEIGHT = "loco.task.weight"
TASK_TYPE = "loco.task.type"
WAIT_DURATION = "loco.wait.duration"
WAIT_TICKS = "loco.wait.ticks"
WAIT_REASON = "loco.wait.reason"
QUEUE_WEIGHT = "loco.queue.weight"
QUEUE_POSITION = "loco.queue.position"
QUEUE_AGE = "loco.queue.age"
CAPACITY = "loco.resource.capacity"
WAITING = "loco.requests.waiting"
SCORE = "loco.load.score"
ALPHA = "loco.scheduler.alpha"
TICK = "loco.scheduler.tick"
GRANT_REASON = "loco.grant.reason"
BYPASS_REASON = "loco.bypass.reason"
THROTTLE_KIND = "loco.throttle.kind"
RETRY_AFTER = "loco.throttle.retry_after"
SPENT_WEIGHT = "loco.spend.weight"
SPENT_USD = "loco.spend.usd"
SPENT_INPUT = "loco.spend.input_tokens"
SPENT_OUTPUT = "loco.spend.output_tokens"
SPEND_ESTIMATED = "loco.spend.estimated"
BUDGET_SCOPE = "loco.budget.scope"
BUDGET_KEY = "loco.budget.key"
BUDGET_PERIOD = "loco.budget.period"
BUDGET_UNIT = "loco.budget.unit"
BUDGET_ACTION = "loco.budget.action"
BUDGET_LIMIT = "loco.budget.limit"
BUDGET_SPENT = "loco.budget.spent"
BUDGET_RESERVED = "loco.budget.reserved"
BUDGET_REMAINING = "loco.budget.remaining_usd"
BUDGET_THRESHOLD = "loco.budget.threshold"
BUDGET_MODEL = "loco.budget.model"
SDK_NAME = "loco.sdk.name"
SDK_VERSION = "loco.sdk.version"

AGENT_NAME = "gen_ai.agent.name"
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
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - the name of an attribute
ERROR_TYPE = "error.type"
STATUS_CODE = "http.response.status_code"
RESEND_COUNT = "http.request.resend_count"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

OPERATIONS = ("chat", "embeddings", "generate_content", "text_completion")
"""The values of `gen_ai.operation.name` that are inference."""
INPUT = "input"
OUTPUT = "output"
SPEND_LIMIT = "spend_limit"
"""The `error.type` of a throttle that slowing down will not cure."""
TIMEOUT = "timeout"
"""That of a throttle without an answer."""
UNKNOWN = "unknown"
"""On metrics, where a request does not say: all points carry the same keys. Spans leave the key out."""
OTHER = "other"
"""On metrics, in place of all values beyond the limit."""


class AttributeDefinition(NamedTuple):
    """One key and what it may hold."""

    key: str
    type: str
    """`string`, `int`, `double`, `boolean` or `string[]`, as in OpenTelemetry's registry."""
    meaning: str
    values: tuple[str, ...] = ()
    """All values that it can have; empty where that is open."""
    is_limited: bool = False
    """On metrics, values beyond the limit become `other`."""

    @property
    def prometheus_label(self) -> str:
        """The label that the Prometheus exporter and OTLP make of it."""
        return self.key.replace(".", "_")


ATTRIBUTES = {
    row.key: row
    for row in (
        AttributeDefinition(AGENT, "string", "The agent that asks, as the scheduler knows it.", is_limited=True),
        AttributeDefinition(RESOURCE, "string", "What is asked for; a set's names are joined by `+`.", is_limited=True),
        AttributeDefinition(TENANT, "string", "On whose behalf the agent works.", is_limited=True),
        AttributeDefinition(OUTCOME, "string", "How the wait ended.", tuple(Outcome)),
        AttributeDefinition(POLICY, "string", "The policy that chose: `load`, `fair`, `fifo` or one of the program's."),
        AttributeDefinition(TASK_WEIGHT, "double", "Weight of the request."),
        AttributeDefinition(TASK_TYPE, "string", "Kind of task, where the program says."),
        AttributeDefinition(WAIT_DURATION, "double", "Seconds from submit to grant or rejection."),
        AttributeDefinition(WAIT_TICKS, "int", "Ticks (releases) that passed meanwhile."),
        AttributeDefinition(
            WAIT_REASON, "string", "What the request waited for, as its wait began.", tuple(WaitReason)
        ),
        AttributeDefinition(QUEUE_WEIGHT, "double", "Weight that the agent has queued, this request included (Qi)."),
        AttributeDefinition(QUEUE_POSITION, "int", "Place in the agent's own queue; 1 is next."),
        AttributeDefinition(QUEUE_AGE, "int", "Age of the agent's oldest request, in ticks (Di)."),
        AttributeDefinition(CAPACITY, "int", "Slots of the resource."),
        AttributeDefinition(WAITING, "int", "Requests that wait for the resource, this one included."),
        AttributeDefinition(
            SCORE, "double", "The score that won (L; under `fair` weights behind V); 0 where nothing was compared."
        ),
        AttributeDefinition(ALPHA, "double", "Share of the queue's weight in the score, against its age."),
        AttributeDefinition(TICK, "int", "The resource's tick."),
        AttributeDefinition(GRANT_REASON, "string", "Why this request, and why now.", tuple(GrantReason)),
        AttributeDefinition(BYPASS_REASON, "string", "Why the call was not scheduled.", tuple(BypassReason)),
        AttributeDefinition(THROTTLE_KIND, "string", "What the provider's refusal means.", tuple(ThrottleKind)),
        AttributeDefinition(RETRY_AFTER, "double", "Seconds after which the provider asks to be tried again."),
        AttributeDefinition(
            SPENT_WEIGHT, "double", "Weight that the call took: by its real tokens where they are known."
        ),
        AttributeDefinition(SPENT_USD, "double", "What the call cost, in USD; not where the model's price is unknown."),
        AttributeDefinition(SPENT_INPUT, "int", "Tokens sent."),
        AttributeDefinition(SPENT_OUTPUT, "int", "Tokens received."),
        AttributeDefinition(SPEND_ESTIMATED, "boolean", "True where the provider did not say what the call took."),
        AttributeDefinition(BUDGET_SCOPE, "string", "Whose spending the budget bounds.", tuple(Scope)),
        AttributeDefinition(
            BUDGET_KEY, "string", "The agent, tenant, team or model; `*` for all together.", is_limited=True
        ),
        AttributeDefinition(BUDGET_PERIOD, "string", "After how long the budget begins anew.", tuple(Period)),
        AttributeDefinition(BUDGET_UNIT, "string", "What the budget counts.", tuple(Unit)),
        AttributeDefinition(BUDGET_ACTION, "string", "What a budget without room did.", tuple(Action)),
        AttributeDefinition(BUDGET_LIMIT, "double", "What the budget may spend in its period, in its unit."),
        AttributeDefinition(BUDGET_SPENT, "double", "What it has spent."),
        AttributeDefinition(BUDGET_RESERVED, "double", "What its calls under way are estimated to take."),
        AttributeDefinition(BUDGET_REMAINING, "double", "What the tightest of the call's budgets in USD has left."),
        AttributeDefinition(BUDGET_THRESHOLD, "int", "Percent of the limit."),
        AttributeDefinition(BUDGET_MODEL, "string", "The cheaper model that it is sent with."),
        AttributeDefinition(SDK_NAME, "string", "The SDK whose calls are scheduled."),
        AttributeDefinition(SDK_VERSION, "string", "Its version."),
        AttributeDefinition(AGENT_NAME, "string", "The agent, under its GenAI name."),
        AttributeDefinition(PROVIDER, "string", "Provider of the model.", is_limited=True),
        AttributeDefinition(MODEL, "string", "Model, as asked for.", is_limited=True),
        AttributeDefinition(OPERATION, "string", "What is asked of the model.", OPERATIONS),
        AttributeDefinition(STREAM, "boolean", "True where the answer is streamed."),
        AttributeDefinition(MAX_TOKENS, "int", "Most tokens that may be generated."),
        AttributeDefinition(TEMPERATURE, "double", "As asked for."),
        AttributeDefinition(TOP_P, "double", "As asked for."),
        AttributeDefinition(TOP_K, "int", "As asked for."),
        AttributeDefinition(FREQUENCY_PENALTY, "double", "As asked for."),
        AttributeDefinition(PRESENCE_PENALTY, "double", "As asked for."),
        AttributeDefinition(SEED, "int", "As asked for."),
        AttributeDefinition(CHOICE_COUNT, "int", "How many answers were asked for, where it is not one."),
        AttributeDefinition(RESPONSE_ID, "string", "The provider's name for its answer."),
        AttributeDefinition(RESPONSE_MODEL, "string", "Model, as answered.", is_limited=True),
        AttributeDefinition(FINISH_REASONS, "string[]", "Why the model stopped, one for each choice."),
        AttributeDefinition(TIME_TO_FIRST_CHUNK, "double", "Seconds from the request to the first chunk of a stream."),
        AttributeDefinition(INPUT_TOKENS, "int", "Tokens sent, as the provider counts them, cached ones included."),
        AttributeDefinition(OUTPUT_TOKENS, "int", "Tokens generated, as the provider counts them."),
        AttributeDefinition(CACHE_READ_TOKENS, "int", "Tokens sent that the provider had in its cache."),
        AttributeDefinition(CACHE_WRITE_TOKENS, "int", "Tokens sent that it put there."),
        AttributeDefinition(REASONING_TOKENS, "int", "Tokens generated for reasoning."),
        AttributeDefinition(TOKEN_TYPE, "string", "Which way the tokens went.", (INPUT, OUTPUT)),
        AttributeDefinition(ERROR_TYPE, "string", "What went wrong.", is_limited=True),
        AttributeDefinition(STATUS_CODE, "int", "HTTP status of the provider's answer."),
        AttributeDefinition(RESEND_COUNT, "int", "How many times the SDK sent the request again."),
        AttributeDefinition(SERVER_ADDRESS, "string", "Host that was called.", is_limited=True),
        AttributeDefinition(SERVER_PORT, "int", "Its port."),
    )
}
"""Each attribute under its key."""
