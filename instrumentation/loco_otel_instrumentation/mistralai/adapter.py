"""Translates between Mistral's SDK and the scheduler: OpenAI's two protocols, and conversations of its own."""

from collections.abc import Mapping
from typing import Any

from loco_otel.patching import CallDescription, ExtendedRequest, UsageMeter, accept_no_model, as_mapping, speakeasy
from loco_otel.patching.dialects.openai_chat import read_completion, read_completion_chunk, read_usage
from loco_otel.patching.dialects.openai_responses import read_response, read_responses_event
from loco_otel_instrumentation.mistralai.own_tracing import makes_span

_CONVERSATION = "agents_api_v1_conversations"
_OPERATIONS = {
    "chat_completion_v1_chat_completions_post": "chat",
    "stream_chat": "chat",
    "agents_completion_v1_agents_completions_post": "chat",
    "stream_agents": "chat",
    "fim_completion_v1_fim_completions_post": "text_completion",
    "stream_fim": "text_completion",
    "embeddings_v1_embeddings_post": "embeddings",
    "create_response_v1_responses_post": "chat",
    **{f"{_CONVERSATION}_{verb}{end}": "chat" for verb in ("start", "append", "restart") for end in ("", "_stream")},
}
"""`gen_ai.operation.name` by the name of the SDK's operation."""
_ORDINARY_TIER = "standard"
_RESPONSE = "response"
"""The kind of an answer of the Responses API, and the beginning of the kinds of its events."""


class MistralAdapter:
    """See `loco_otel.patching.Adapter`. A request is the arguments of `do_request` by name, an answer is plain JSON.

    Args:
        provider: `gen_ai.provider.name` of all calls.

    """

    sdk = "mistralai"

    def __init__(self, provider: str) -> None:
        self._provider = provider

    def describe_call(self, _: Any, options: Mapping[str, Any]) -> CallDescription | None:
        """Describe a request; return None if it is no call of a model."""
        context = options["hook_ctx"]
        operation = _OPERATIONS.get(context.operation_id)
        if operation is None:
            return None
        body = speakeasy.read_json(options)
        model = body.get("model")
        if context.operation_id.startswith(_CONVERSATION):
            body = _neutralise_conversation(body)
        return CallDescription(
            self._provider,
            operation,
            model if isinstance(model, str) else None,
            body,
            options["request"].url,
            has_sdk_span=makes_span(getattr(context, "config", None)),
            # An agent has a model of its own.
            accepts_model=None if isinstance(model, str) else accept_no_model,
        )

    def request_usage(self, _: Any) -> ExtendedRequest | None:
        """Return None: each stream contains its usage."""
        return None

    def with_model(self, options: Mapping[str, Any], model: str | None) -> Any:
        """Return a request that is sent with another model."""
        return speakeasy.replace_json(options, {"model": model})

    def read_answer(self, answer: Any, meter: UsageMeter) -> None:
        """Note what a whole answer contains."""
        if answer.get("object") == _RESPONSE:
            read_response(answer, meter)
            return
        # Embeddings have no choices; conversations have outputs.
        read_completion(answer, answer.get("choices") or (), meter)
        meter.response_id = meter.response_id or answer.get("conversation_id")
        for output in answer.get("outputs") or ():
            meter.model = output.get("model") or meter.model
        _read_usage(answer, meter)

    def read_chunk(self, chunk: Any, meter: UsageMeter) -> None:
        """Note what an event contains: a chunk of a completion, or an event of a conversation."""
        if "choices" in chunk:
            read_completion_chunk(chunk, chunk["choices"], meter)
        elif _is_response_event(chunk):
            read_responses_event(chunk, meter)
        else:
            meter.response_id = chunk.get("conversation_id") or meter.response_id
            meter.model = chunk.get("model") or meter.model
            meter.characters += len(chunk.get("content") or "")
        _read_usage(chunk, meter)

    def read_usage(self, chunk: Any, meter: UsageMeter) -> None:
        """Note only the provider's figures."""
        _read_usage(as_mapping(chunk.get("response")) or chunk, meter)

    def is_spend_limit(self, _: Mapping[str, object]) -> bool:
        """Return False: a 429 of Mistral is a rate limit."""
        return False

    def read_error_status(self, _: Mapping[str, object]) -> int | None:
        """Return None: the SDK raises errors of HTTP only."""
        return None


def _is_response_event(chunk: Mapping[str, Any]) -> bool:
    return str(chunk.get("type")).startswith(f"{_RESPONSE}.")


def _neutralise_conversation(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of a conversation's request under the names that the toolkit reads."""
    return {**(body.get("completion_args") or {}), **body, "input": body.get("inputs")}


def _read_usage(answer: Mapping[str, Any], meter: UsageMeter) -> None:
    usage = answer.get("usage")
    if not usage:
        return
    read_usage(usage, meter)
    # What connectors brought into the prompt is counted beside it.
    if meter.input_tokens is not None:
        meter.input_tokens += usage.get("connector_tokens") or 0
    if usage.get("service_tier") not in {None, _ORDINARY_TIER}:
        meter.service_tier = usage["service_tier"]
