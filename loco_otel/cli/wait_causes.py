"""What a call waits for, in words: the causes of `loco.wait.time` but `slot`, which names the agent that holds it."""

from collections.abc import Mapping

from loco_otel._telemetry import attributes as key

WAIT_CAUSES: Mapping[str, str] = {
    key.SELF: "itself",
    "backoff": "the provider's pause",
    key.REQUESTS: "a rate limit (requests)",
    key.TOKENS: "a rate limit (tokens)",
    key.RAMP: "a limit that still rises",
    key.RESERVED: "a reserved slot",
    key.BUDGET: "a budget check",
    key.UNKNOWN: "an unknown cause",
}
