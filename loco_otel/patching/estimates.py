"""The usage that budgets reserve for a call.

    input  = estimated prompt, corrected by the real size of earlier prompts
    output = the limit that the request sets, else the mean of this agent's answers from the model

`docs/budgets.md` states what these estimates guarantee.
"""

from functools import partial

from loco_otel._budgets.reservation import ChargeContext, Estimate, Reservation
from loco_otel._runtime.identity import Identity
from loco_otel._runtime.runtime import Runtime
from loco_otel.events import Usage
from loco_otel.patching.adapter import CallDescription
from loco_otel.patching.dialects.model_tiers import estimate_weight
from loco_otel.patching.request_size import find_max_output_tokens

_DEAR_TIERS = ("priority", "fast")
"""The service tiers that cost more than a model's published price. Cheaper tiers are ignored: they may be denied."""
_DEFAULT_OUTPUT_TOKENS = 256
"""Tokens reserved for an answer if the request sets no limit and no earlier call has ended."""


def create_reservation(
    runtime: Runtime, caller: Identity, description: CallDescription, resources: tuple[str, ...], prompt_tokens: int
) -> Reservation:
    """Return the reservation of a call that needs these resources, not admitted yet."""
    provider, operation, model, body, url, *_ = description
    bound = None
    if runtime.budgets.has_budgets:
        bound = 0 if operation == "embeddings" else find_max_output_tokens(body)
    speed, tier = body.get("speed"), body.get("service_tier")
    subject = ChargeContext(
        caller,
        provider,
        None if url is None else url.host,
        model,
        partial(_estimate_usage, runtime, caller.agent, prompt_tokens, bound),
        partial(_has_same_route, runtime, description, resources),
        speed if speed in _DEAR_TIERS else tier if tier in _DEAR_TIERS else None,
    )
    return Reservation(runtime.budgets, subject)


def _estimate_usage(runtime: Runtime, agent: str, prompt_tokens: int, bound: int | None, model: str | None) -> Estimate:
    """Return the usage and the weight that budgets reserve for a call with a model."""
    expected = runtime.averages.predict_usage(agent, model, prompt_tokens)
    output = bound
    if output is None:
        output = expected.output_tokens if expected.learnt else _DEFAULT_OUTPUT_TOKENS
    usage = Usage(expected.input_tokens, output, estimated=True)
    return Estimate(usage, estimate_weight(model, usage.input_tokens + output, runtime.settings.weights))


def _has_same_route(runtime: Runtime, description: CallDescription, resources: tuple[str, ...], model: str) -> bool:
    """Return whether a call with another model can be sent, and requires the same resources."""
    if description.accepts_model is not None and not description.accepts_model(model):
        return False
    url = description.url
    host, port = (None, None) if url is None else (url.host, url.port)
    return runtime.router.route_call(description.provider, model, host, port) == resources
