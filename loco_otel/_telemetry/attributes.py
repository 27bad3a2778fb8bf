"""Every attribute key in one place: loco-otel's own, and those taken from OpenTelemetry's conventions.

The `gen_ai.*` names follow the GenAI semantic conventions. Those are not stable, and their constants on PyPI
are deprecated: when a name changes there, it changes in this file and nowhere else. `error.type` and `http.*`
are stable. A key means, and is called, the same on spans and on metrics.
"""

from typing import NamedTuple

from loco_otel.events import BypassReason, GrantReason, Outcome, ThrottleKind

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
SPENT_INPUT = "loco.spend.input_tokens"
SPENT_OUTPUT = "loco.spend.output_tokens"
SPEND_ESTIMATED = "loco.spend.estimated"
SDK_NAME = "loco.sdk.name"
SDK_VERSION = "loco.sdk.version"

AGENT_NAME = "gen_ai.agent.name"
PROVIDER = "gen_ai.provider.name"
MODEL = "gen_ai.request.model"
TYPE_OF_TOKENS = "gen_ai.token.type"
ERROR_TYPE = "error.type"
STATUS_CODE = "http.response.status_code"

INPUT = "input"
OUTPUT = "output"
SPEND_LIMIT = "spend_limit"
"""The `error.type` of a throttle that slowing down will not cure."""
UNKNOWN = "unknown"
"""On metrics, where a request does not say: all points carry the same keys. Spans leave the key out."""
OTHER = "other"
"""On metrics, in place of all values beyond the limit."""


class Attribute(NamedTuple):
    """One key and what it may hold."""

    key: str
    type: str
    """`string`, `int`, `double` or `boolean`, as in OpenTelemetry's registry."""
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
        Attribute(SCORE, "double", "The score that won (L); 0 where nothing was compared."),
        Attribute(ALPHA, "double", "Share of the queue's weight in the score, against its age."),
        Attribute(TICK, "int", "The resource's tick."),
        Attribute(GRANT_REASON, "string", "Why this request, and why now.", tuple(GrantReason)),
        Attribute(BYPASS_REASON, "string", "Why the call was not scheduled.", tuple(BypassReason)),
        Attribute(THROTTLE_KIND, "string", "What the provider's refusal means.", tuple(ThrottleKind)),
        Attribute(RETRY_AFTER, "double", "Seconds after which the provider asks to be tried again."),
        Attribute(SPENT_WEIGHT, "double", "Weight that the call took: by its real tokens where they are known."),
        Attribute(SPENT_INPUT, "int", "Tokens sent."),
        Attribute(SPENT_OUTPUT, "int", "Tokens received."),
        Attribute(SPEND_ESTIMATED, "boolean", "True where the provider did not say what the call took."),
        Attribute(SDK_NAME, "string", "The SDK whose calls are scheduled."),
        Attribute(SDK_VERSION, "string", "Its version."),
        Attribute(AGENT_NAME, "string", "The agent, under its GenAI name."),
        Attribute(PROVIDER, "string", "Provider of the model.", folded=True),
        Attribute(MODEL, "string", "Model, as asked for.", folded=True),
        Attribute(TYPE_OF_TOKENS, "string", "Which way the tokens went.", (INPUT, OUTPUT)),
        Attribute(ERROR_TYPE, "string", "What went wrong."),
        Attribute(STATUS_CODE, "int", "HTTP status of the provider's answer."),
    )
}
"""Each attribute under its key."""
