"""The usage that budgets reserve for a call.

    input  = estimated prompt, corrected by the real size of earlier prompts
    output = the limit that the request sets, else the mean of this agent's answers from the model

`docs/budgets.md` states what these estimates guarantee.
"""

from functools import partial
from typing import Any

from loco_otel._budgets.reservation import ChargeContext, Estimate, Reservation
from loco_otel._runtime.identity import Identity
from loco_otel._runtime.runtime import Runtime
from loco_otel.events import Usage
from loco_otel.patching.adapter import CallDescription
from loco_otel.patching.model_tiers import estimate_weight
from loco_otel.patching.request_size import find_max_output_tokens

_PRIORITY_TIER = "priority"
"""The service tier that costs more than a model's published price. Cheaper tiers are ignored: they may be denied."""
_DEFAULT_OUTPUT_TOKENS = 256
"""Tokens reserved for an answer if the request sets no limit and no earlier call has ended."""


def create_reservation(
    runtime: Runtime, caller: Identity, description: CallDescription, resources: tuple[str, ...], prompt_tokens: int
) -> Reservation:
    """Return the reservation of a call that needs these resources, not admitted yet."""
    provider, operation, model, body, url, _ = description
    bound = None
    if runtime.budgets.has_budgets:
        bound = 0 if operation == "embeddings" else find_max_output_tokens(body)
    subject = ChargeContext(
        caller,
        provider,
        None if url is None else url.host,
        model,
        partial(_estimate_usage, runtime, caller.agent, prompt_tokens, bound),
        partial(_has_same_route, runtime, provider, url, resources),
        _PRIORITY_TIER if body.get("service_tier") == _PRIORITY_TIER else None,
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


def _has_same_route(runtime: Runtime, provider: str, url: Any, resources: tuple[str, ...], model: str) -> bool:
    """Return whether a call with another model goes to the same host, under the same resources."""
    host, port = (None, None) if url is None else (url.host, url.port)
    if "/deployments/" in str(getattr(url, "path", "")):
        return False  # Azure's client for one deployment: its model answers, whichever the request names
    return runtime.router.route_call(provider, model, host, port) == resources
