"""Translates between Bedrock's runtime, as botocore calls it, and the scheduler."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from loco_otel.patching import Call, CallDescription, ExtendedRequest, Refusal, UsageMeter, parse_address, stream_proxy
from loco_otel_instrumentation.botocore.model_chunks import read_model_chunk, set_usage
from loco_otel_instrumentation.botocore.models import find_family, shorten_model_id
from loco_otel_instrumentation.botocore.request_bodies import neutralise_converse, neutralise_invoke

_SERVICE = "bedrock-runtime"
_CONVERSE = frozenset({"Converse", "ConverseStream"})
_OPERATIONS = _CONVERSE | {"InvokeModel", "InvokeModelWithResponseStream"}
_STREAM_FIELDS = ("stream", "body")
"""Fields of an answer that may be an event stream."""

_STATUSES = {
    "throttlingexception": 429,
    "serviceunavailableexception": 503,
    "internalserverexception": 500,
    "modelstreamerrorexception": 424,
    "modeltimeoutexception": 408,
    "validationexception": 400,
}
"""HTTP statuses of the errors that come within a stream, in lower case: there they begin with a small letter."""
_DAILY_LIMIT = "per day"
"""In the message of a throttle that lasts until the next day, such as "Too many tokens per day"."""
_RETRY_AFTER = "x-amz-retry-after"
"""A header, in milliseconds."""

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_call",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    "malformed_model_output": "error",
    "malformed_tool_use": "error",
}
"""Its words for what the conventions call otherwise."""

_HEADER_PREFIX = "x-amzn-bedrock-"


class BedrockAdapter:
    """See `loco_otel.patching.Adapter`. A request is the arguments of `_make_api_call`, by name."""

    def __init__(self, sdk: str) -> None:
        self.sdk = sdk

    def describe_call(self, client: Any, options: Mapping[str, Any]) -> CallDescription | None:
        """Describe a request; return None if it is no call of a model, as nearly all calls of AWS are."""
        name = options["operation_name"]
        if name not in _OPERATIONS or client.meta.service_model.service_name != _SERVICE:
            return None
        params = options["api_params"]
        model_id = str(params.get("modelId") or "")
        model = shorten_model_id(model_id) or None
        accepts_model = None
        if name in _CONVERSE:
            operation, body = "chat", neutralise_converse(params)
        else:
            operation, body = neutralise_invoke(params, model or "")
            accepts_model = partial(_has_family, find_family(model_id))
        if name.endswith("Stream"):
            body["stream"] = True
        url = parse_address(client.meta.endpoint_url)
        return CallDescription("aws.bedrock", operation, model, body, url, accepts_model=accepts_model)

    def request_usage(self, _: Any) -> ExtendedRequest | None:
        """Return None: every stream contains its usage."""
        return None

    def with_model(self, options: Mapping[str, Any], model: str | None) -> Mapping[str, Any]:
        """Return a request that is sent with another model."""
        return {**options, "api_params": {**options["api_params"], "modelId": model}}

    def read_answer(self, answer: Any, meter: UsageMeter) -> None:
        """Note the usage of a whole answer: in Converse's body, in InvokeModel's headers."""
        metadata = answer.get("ResponseMetadata") or {}
        meter.response_id = metadata.get("RequestId")
        if answer.get("usage"):
            _read_usage(answer, meter)
            _read_finish_reason(answer.get("stopReason"), meter)
        else:
            _read_headers(metadata.get("HTTPHeaders") or {}, meter)
            _read_service_tier(answer.get("serviceTier"), meter)

    def read_chunk(self, chunk: Any, meter: UsageMeter) -> None:
        """Note what one event of a stream contains."""
        block = chunk.get("contentBlockDelta")
        if block is not None:
            meter.characters += _count_characters(block.get("delta") or {})
        else:
            self.read_usage(chunk, meter)

    def read_usage(self, chunk: Any, meter: UsageMeter) -> None:
        """Note of one event only the figures."""
        if "metadata" in chunk:
            _read_usage(chunk["metadata"], meter)
        elif "messageStop" in chunk:
            _read_finish_reason(chunk["messageStop"].get("stopReason"), meter)
        elif "chunk" in chunk:
            read_model_chunk(chunk["chunk"].get("bytes") or b"", meter)

    def is_spend_limit(self, error: Mapping[str, object]) -> bool:
        """Return whether a daily limit is used up: a lower rate does not end it."""
        return _DAILY_LIMIT in str(error.get("Message")).lower()

    def read_error_status(self, _: Mapping[str, object]) -> int | None:
        """Return None: the errors of this SDK are read by `read_refusal`."""
        return None

    def read_refusal(self, error: BaseException) -> Refusal | None:
        """Read a `ClientError`, or its subclass of an event stream."""
        response = getattr(error, "response", None)
        details = response.get("Error") if isinstance(response, Mapping) else None
        if not isinstance(response, Mapping) or not isinstance(details, Mapping):
            return None
        if type(error).__name__ == "EventStreamError":
            return Refusal(_STATUSES.get(str(details.get("Code")).lower(), 500), body=details, in_stream=True)
        metadata = response.get("ResponseMetadata") or {}
        headers = metadata.get("HTTPHeaders") or {}
        status = metadata.get("HTTPStatusCode") or _STATUSES.get(str(details.get("Code")).lower(), 500)
        return Refusal(status, headers, details, retry_after=_read_retry_after(headers))


def follow_answer(call: Call, answer: dict[str, Any]) -> None:
    """End a call whose answer is whole, or put what ends it with its stream in the stream's place.

    The body of InvokeModel is left unread: Bedrock sends its head when the model has finished.
    """
    for field in _STREAM_FIELDS:
        stream: Any = answer.get(field)
        if hasattr(type(stream), "get_initial_response"):
            answer[field] = stream_proxy.follow_stream(call, stream, stream._raw_stream.close)
            return
    call.record_answer(answer)
    call.finish_call()


def _has_family(family: str | None, model: str) -> bool:
    """Return whether the body of InvokeModel, which each family of models defines, can be sent to another model."""
    return family is not None and find_family(model) == family


def _read_usage(known: Mapping[str, Any], meter: UsageMeter) -> None:
    """Read the usage of Converse, whose input tokens are without those of the cache."""
    usage = known.get("usage") or {}
    if usage.get("inputTokens") is not None:
        set_usage(
            meter,
            usage["inputTokens"],
            usage.get("outputTokens"),
            usage.get("cacheReadInputTokens"),
            usage.get("cacheWriteInputTokens"),
        )
        for written in usage.get("cacheDetails") or ():
            if written.get("ttl") == "1h":
                meter.set_item("cache_write_1h_tokens", written.get("inputTokens"))
        # The total includes them, also where an old botocore drops the two.
        meter.input_tokens = max(meter.input_tokens or 0, (usage.get("totalTokens") or 0) - (meter.output_tokens or 0))
    _read_service_tier(known.get("serviceTier"), meter)


def _read_headers(headers: Mapping[str, str], meter: UsageMeter) -> None:
    plain, answered, read, written = (
        _parse_count(headers.get(f"{_HEADER_PREFIX}{name}-token-count"))
        for name in ("input", "output", "cache-read-input", "cache-write-input")
    )
    if plain is not None:
        set_usage(meter, plain, answered, read, written)


def _read_finish_reason(reason: str | None, meter: UsageMeter) -> None:
    if reason:
        meter.finish_reasons = (_FINISH_REASONS.get(reason, reason),)


def _read_service_tier(tier: object, meter: UsageMeter) -> None:
    name = tier.get("type") if isinstance(tier, Mapping) else tier
    if isinstance(name, str):
        meter.service_tier = name


def _count_characters(delta: Mapping[str, Any]) -> int:
    text = delta.get("text") or (delta.get("toolUse") or {}).get("input")
    return len(text or (delta.get("reasoningContent") or {}).get("text") or "")


def _parse_count(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _read_retry_after(headers: Mapping[str, str]) -> float | None:
    milliseconds = _parse_count(headers.get(_RETRY_AFTER))
    return None if milliseconds is None else milliseconds / 1000.0
