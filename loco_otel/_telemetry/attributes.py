"""Every attribute key in one place: loco-otel's own, and those taken from OpenTelemetry's conventions.

The `gen_ai.*` names follow the GenAI semantic conventions. Those are not stable, and their constants on PyPI
are deprecated: when a name changes there, it changes in this file and nowhere else. `error.type` and `http.*`
are stable. A key means, and is called, the same on spans and on metrics.
"""

from typing import NamedTuple

from loco_otel.events import BypassReason, GrantReason, Outcome, ThrottleKind
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
TYPE_OF_TOKENS = "gen_ai.token.type"
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


class Attribute(NamedTuple):
    """One key and what it may hold."""

    key: str
    type: str
    """`string`, `int`, `double`, `boolean` or `string[]`, as in OpenTelemetry's registry."""
    meaning: str
    values: tuple[str, ...] = ()
    """All values that it can have; empty where that is open."""
    folded: bool = False
    """On metrics, values beyond the limit become `other`."""

    @property
    def prometheus_label(self) -> str:
        """The label that the Prometheus exporter and OTLP make of it."""
        return self.key.replace(".", "_")


ATTRIBUTES = {
    row.key: row
    for row in (
        Attribute(AGENT, "string", "The agent that asks, as the scheduler knows it.", folded=True),
        Attribute(RESOURCE, "string", "What is asked for; a set's names are joined by `+`.", folded=True),
        Attribute(TENANT, "string", "On whose behalf the agent works.", folded=True),
        Attribute(OUTCOME, "string", "How the wait ended.", tuple(Outcome)),
        Attribute(POLICY, "string", "The policy that chose: `load`, `fair`, `fifo` or one of the program's."),
        Attribute(TASK_WEIGHT, "double", "Weight of the request."),
        Attribute(TASK_TYPE, "string", "Kind of task, where the program says."),
        Attribute(WAIT_DURATION, "double", "Seconds from submit to grant or rejection."),
        Attribute(WAIT_TICKS, "int", "Ticks (releases) that passed meanwhile."),
        Attribute(QUEUE_WEIGHT, "double", "Weight that the agent has queued, this request included (Qi)."),
        Attribute(QUEUE_POSITION, "int", "Place in the agent's own queue; 1 is next."),
        Attribute(QUEUE_AGE, "int", "Age of the agent's oldest request, in ticks (Di)."),
        Attribute(CAPACITY, "int", "Slots of the resource."),
        Attribute(WAITING, "int", "Requests that wait for the resource, this one included."),
        Attribute(
            SCORE, "double", "The score that won (L; under `fair` weights behind V); 0 where nothing was compared."
        ),
        Attribute(ALPHA, "double", "Share of the queue's weight in the score, against its age."),
        Attribute(TICK, "int", "The resource's tick."),
        Attribute(GRANT_REASON, "string", "Why this request, and why now.", tuple(GrantReason)),
        Attribute(BYPASS_REASON, "string", "Why the call was not scheduled.", tuple(BypassReason)),
        Attribute(THROTTLE_KIND, "string", "What the provider's refusal means.", tuple(ThrottleKind)),
        Attribute(RETRY_AFTER, "double", "Seconds after which the provider asks to be tried again."),
        Attribute(SPENT_WEIGHT, "double", "Weight that the call took: by its real tokens where they are known."),
        Attribute(SPENT_USD, "double", "What the call cost, in USD; not where the model's price is unknown."),
        Attribute(SPENT_INPUT, "int", "Tokens sent."),
        Attribute(SPENT_OUTPUT, "int", "Tokens received."),
        Attribute(SPEND_ESTIMATED, "boolean", "True where the provider did not say what the call took."),
        Attribute(BUDGET_SCOPE, "string", "Whose spending the budget bounds.", tuple(Scope)),
        Attribute(BUDGET_KEY, "string", "The agent, tenant, team or model; `*` for all together.", folded=True),
        Attribute(BUDGET_PERIOD, "string", "After how long the budget begins anew.", tuple(Period)),
        Attribute(BUDGET_UNIT, "string", "What the budget counts.", tuple(Unit)),
        Attribute(BUDGET_ACTION, "string", "What a budget without room did.", tuple(Action)),
        Attribute(BUDGET_LIMIT, "double", "What the budget may spend in its period, in its unit."),
        Attribute(BUDGET_SPENT, "double", "What it has spent."),
        Attribute(BUDGET_RESERVED, "double", "What its calls under way are estimated to take."),
        Attribute(BUDGET_REMAINING, "double", "What the tightest of the call's budgets in USD has left."),
        Attribute(BUDGET_THRESHOLD, "int", "Percent of the limit."),
        Attribute(BUDGET_MODEL, "string", "The cheaper model that it is sent with."),
        Attribute(SDK_NAME, "string", "The SDK whose calls are scheduled."),
        Attribute(SDK_VERSION, "string", "Its version."),
        Attribute(AGENT_NAME, "string", "The agent, under its GenAI name."),
        Attribute(PROVIDER, "string", "Provider of the model.", folded=True),
        Attribute(MODEL, "string", "Model, as asked for.", folded=True),
        Attribute(OPERATION, "string", "What is asked of the model.", OPERATIONS),
        Attribute(STREAM, "boolean", "True where the answer is streamed."),
        Attribute(MAX_TOKENS, "int", "Most tokens that may be generated."),
        Attribute(TEMPERATURE, "double", "As asked for."),
        Attribute(TOP_P, "double", "As asked for."),
        Attribute(TOP_K, "int", "As asked for."),
        Attribute(FREQUENCY_PENALTY, "double", "As asked for."),
        Attribute(PRESENCE_PENALTY, "double", "As asked for."),
        Attribute(SEED, "int", "As asked for."),
        Attribute(CHOICE_COUNT, "int", "How many answers were asked for, where it is not one."),
        Attribute(RESPONSE_ID, "string", "The provider's name for its answer."),
        Attribute(RESPONSE_MODEL, "string", "Model, as answered.", folded=True),
        Attribute(FINISH_REASONS, "string[]", "Why the model stopped, one for each choice."),
        Attribute(TIME_TO_FIRST_CHUNK, "double", "Seconds from the request to the first chunk of a stream."),
        Attribute(INPUT_TOKENS, "int", "Tokens sent, as the provider counts them, cached ones included."),
        Attribute(OUTPUT_TOKENS, "int", "Tokens generated, as the provider counts them."),
        Attribute(CACHE_READ_TOKENS, "int", "Tokens sent that the provider had in its cache."),
        Attribute(CACHE_WRITE_TOKENS, "int", "Tokens sent that it put there."),
        Attribute(REASONING_TOKENS, "int", "Tokens generated for reasoning."),
        Attribute(TYPE_OF_TOKENS, "string", "Which way the tokens went.", (INPUT, OUTPUT)),
        Attribute(ERROR_TYPE, "string", "What went wrong.", folded=True),
        Attribute(STATUS_CODE, "int", "HTTP status of the provider's answer."),
        Attribute(RESEND_COUNT, "int", "How many times the SDK sent the request again."),
        Attribute(SERVER_ADDRESS, "string", "Host that was called.", folded=True),
        Attribute(SERVER_PORT, "int", "Its port."),
    )
}
"""Each attribute under its key."""
