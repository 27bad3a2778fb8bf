"""Translates between the Interactions of google-genai and the scheduler, whichever generator made their client.

Decisions are requests of the same client, with the same usage.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from loco_otel.patching import CallDescription, ExtendedRequest, UsageMeter, get_field, parse_address, speakeasy

_OPERATION = "generate_content"
_SCHEDULED_IDS = frozenset({"CreateInteraction", "CreateDecision"})
_MODEL_PREFIX = "models/"
"""Decisions require it before the name of a model."""
_FINISH_REASONS = {
    "completed": "stop",
    "incomplete": "length",
    "requires_action": "tool_call",
    "failed": "error",
    "cancelled": "error",
}
"""What the conventions call the status of an interaction that has ended."""
_TOKEN_KINDS = ("input", "tool_use", "cached", "thought", "output")
_BEGUN = frozenset({None, "in_progress", "queued"})


class InteractionRequest(NamedTuple):
    """What a request to create an interaction or a decision contains."""

    is_vertex: bool
    url: str
    body: Mapping[str, Any]


class RequestFormat(Protocol):
    """How a generated client represents a request."""

    def read_request(self, client: Any, options: Any) -> InteractionRequest | None:
        """Return what a request contains; None if it asks no model."""

    def with_model(self, options: Any, model: str) -> Any:
        """Return a request with another model."""


class SpeakeasyRequests:
    """The arguments of `BaseSDK.do_request`, by name: since google-genai 2."""

    def read_request(self, client: Any, options: Mapping[str, Any]) -> InteractionRequest | None:
        """Return what a request contains; None if it asks no model."""
        if options["hook_ctx"].operation_id not in _SCHEDULED_IDS:
            return None
        is_vertex = getattr(getattr(client, "_api_client", None), "vertexai", False)
        return InteractionRequest(bool(is_vertex), str(options["request"].url), speakeasy.read_json(options))

    def with_model(self, options: Mapping[str, Any], model: str) -> dict[str, Any]:
        """Return the arguments with a request for another model."""
        prefix = _MODEL_PREFIX if speakeasy.read_json(options)["model"].startswith(_MODEL_PREFIX) else ""
        return speakeasy.replace_json(options, {"model": prefix + model})


class StainlessRequests:
    """The options of `SyncAPIClient.request`: google-genai 1."""

    def read_request(self, client: Any, options: Any) -> InteractionRequest | None:
        """Return what a request contains; None if it asks no model."""
        if options.method.lower() != "post" or not options.url.endswith("/interactions"):
            return None
        return InteractionRequest(bool(client._is_vertex), str(client._base_url), options.json_data)

    def with_model(self, options: Any, model: str) -> Any:
        """Return the options of a request for another model."""
        return options.model_copy(update={"json_data": {**options.json_data, "model": model}})


class InteractionsAdapter:
    """See `loco_otel.patching.Adapter`.

    Interactions that run in the background pass: their response comes before the model has begun. So do requests that
    read, cancel or delete an interaction.

    Args:
        requests: how the generated client represents a request.

    """

    sdk = "google.genai"

    def __init__(self, requests: RequestFormat) -> None:
        self._requests = requests

    def describe_call(self, client: Any, options: Any) -> CallDescription | None:
        """Describe a request; return None if it is no call of a model."""
        request = self._requests.read_request(client, options)
        if request is None or request.body.get("background"):
            return None
        model = request.body.get("model")
        name = model.removeprefix(_MODEL_PREFIX) if isinstance(model, str) else None
        provider = "gcp.vertex_ai" if request.is_vertex else "gcp.gemini"
        return CallDescription(provider, _OPERATION, name, _neutralise_body(request.body), parse_address(request.url))

    def request_usage(self, _: Any) -> ExtendedRequest | None:
        """Return None: each stream contains its usage."""
        return None

    def with_model(self, options: Any, model: str | None) -> Any:
        """Return a request that is sent with another model."""
        return options if model is None else self._requests.with_model(options, model)

    def read_answer(self, answer: Any, meter: UsageMeter) -> None:
        """Note what a whole interaction contains."""
        _read_interaction(answer, meter)
        for step in get_field(answer, "steps") or get_field(answer, "outputs") or ():
            for part in get_field(step, "content") or (step,):
                meter.characters += len(get_field(part, "text") or "")

    def read_chunk(self, chunk: Any, meter: UsageMeter) -> None:
        """Note what an event contains."""
        self.read_usage(chunk, meter)
        delta = get_field(chunk, "delta")
        if delta is not None:
            meter.characters += len(get_field(delta, "text") or "")

    def read_usage(self, chunk: Any, meter: UsageMeter) -> None:
        """Note of an event only the provider's figures: the first and the last contain the interaction."""
        interaction = get_field(chunk, "interaction")
        if interaction is not None:
            _read_interaction(interaction, meter)

    def is_spend_limit(self, _: Mapping[str, object]) -> bool:
        """Return False: Gemini's quotas are of requests and tokens, and all are refilled."""
        return False

    def read_error_status(self, _: Mapping[str, object]) -> int | None:
        """Return None: an error within a stream is an event for the program, and raises nothing."""
        return None


def _neutralise_body(body: Mapping[str, Any]) -> dict[str, object]:
    """Return a request's body under the names that the toolkit reads."""
    config = body.get("generation_config") or {}
    neutral = {
        "input": body.get("input"),
        "system": body.get("system_instruction"),
        "tools": body.get("tools"),
        "response_format": body.get("response_format"),
        "questions": body.get("questions"),
        "stream": body.get("stream"),
        "max_output_tokens": config.get("max_output_tokens"),
        "temperature": config.get("temperature"),
        "top_p": config.get("top_p"),
        "seed": config.get("seed"),
    }
    return {name: value for name, value in neutral.items() if value is not None}


def _read_interaction(interaction: Any, meter: UsageMeter) -> None:
    meter.response_id = get_field(interaction, "id") or meter.response_id
    meter.model = get_field(interaction, "model") or meter.model
    status = get_field(interaction, "status")
    if status not in _BEGUN:
        meter.finish_reasons = (_FINISH_REASONS.get(status, str(status)),)
    usage = get_field(interaction, "usage")
    if usage is None:
        return
    # Cached tokens are a part of the prompt's; thoughts and the results of tools are counted apart.
    known = {kind: get_field(usage, f"total_{kind}_tokens") for kind in _TOKEN_KINDS}
    if known["input"] is not None:
        meter.input_tokens = known["input"] + (known["tool_use"] or 0)
    meter.cache_read_tokens = known["cached"]
    meter.reasoning_tokens = known["thought"]
    if known["output"] is not None or known["thought"] is not None:
        meter.output_tokens = (known["output"] or 0) + (known["thought"] or 0)
