"""Translates between google-genai and the scheduler."""

import json
import re
from collections.abc import Mapping
from copy import copy
from typing import Any

from loco_otel.patching import CallDescription, ExtendedRequest, Refusal, UsageMeter, parse_address

_PATH = re.compile(r"(?P<before>.*?)(?P<model>[^/:]+)(?P<after>:(?P<method>\w+)(?:\?.*)?)")
_OPERATIONS = {
    "generateContent": "generate_content",
    "streamGenerateContent": "generate_content",
    "embedContent": "embeddings",
    "batchEmbedContents": "embeddings",
    "predict": "generate_content",
}
_FINISH_REASONS = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "MALFORMED_FUNCTION_CALL": "error",
}
"""Its words for what the conventions call otherwise."""
_MODALITIES = {"AUDIO": "audio", "IMAGE": "image", "VIDEO": "video"}
"""Those that may have a price of their own; documents cost as much as text."""
_TRAFFIC_TIERS = {
    "ON_DEMAND_PRIORITY": "priority",
    "ON_DEMAND_FLEX": "flex",
    "ON_DEMAND_OFFPEAK": "off_peak",
    "PROVISIONED_THROUGHPUT": "provisioned_throughput",
}
_ONCE_BILLED_MODELS = ("gemini-1", "gemini-2")


class GoogleGenaiAdapter:
    """See `loco_otel.patching.Adapter`. A request is the arguments of `BaseApiClient.request`, by name."""

    sdk = "google.genai"

    def describe_call(self, client: Any, options: Mapping[str, Any]) -> CallDescription | None:
        """Tell what a request is about to do; None when it is no call of a model."""
        found = _PATH.fullmatch(options["path"])
        operation = None if found is None else _OPERATIONS.get(found["method"])
        if found is None or operation is None:
            return None
        body = _neutralise_body(options["request_dict"])
        if found["method"] == "predict" and _is_text_to_embed(options["request_dict"]):
            operation = "embeddings"
        if found["method"] == "streamGenerateContent":
            body["stream"] = True
        provider = "gcp.vertex_ai" if client.vertexai else "gcp.gemini"
        url = client._http_options.base_url
        return CallDescription(provider, operation, found["model"], body, parse_address(str(url)) if url else None)

    def request_usage(self, options: Any) -> ExtendedRequest | None:  # noqa: ARG002 - the protocol's
        """Ask for nothing: every stream tells its usage."""
        return None

    def with_model(self, options: Mapping[str, Any], model: str | None) -> Any:
        """Return a request that is sent with another model, which is a part of the path."""
        found = _PATH.fullmatch(options["path"])
        if found is None or model is None:
            return options
        return {**options, "path": f"{found['before']}{model}{found['after']}"}

    def read_answer(self, answer: Any, meter: UsageMeter) -> None:
        """Note what a whole answer says."""
        self.read_chunk(answer, meter)

    def read_chunk(self, chunk: Any, meter: UsageMeter) -> None:
        """Note what one event of a stream says."""
        known = _parse_body(chunk.body)
        _read_figures(known, meter)
        for candidate in known.get("candidates") or ():
            for part in (candidate.get("content") or {}).get("parts") or ():
                meter.characters += len(part.get("text") or "")

    def read_usage(self, chunk: Any, meter: UsageMeter) -> None:
        """Note of one event only the provider's figures."""
        _read_figures(_parse_body(chunk.body), meter)

    def is_spend_limit(self, error: Mapping[str, object]) -> bool:  # noqa: ARG002 - the protocol's
        """Return False: Gemini's quotas are of requests and tokens, and all are refilled."""
        return False

    def read_error_status(self, error: Mapping[str, object]) -> int | None:  # noqa: ARG002 - the protocol's
        """Return None: the errors of this SDK are read by `read_refusal`."""
        return None

    def read_refusal(self, error: BaseException) -> Refusal | None:
        """Read the SDK's own error, whose code is set whatever transport it came by."""
        code = getattr(error, "code", None)
        if not isinstance(code, int):
            return None
        response, details = getattr(error, "response", None), getattr(error, "details", None)
        # Within a stream the response is the SDK's own, which was a good one.
        in_stream = getattr(response, "status_code", None) == 200  # noqa: PLR2004
        headers = getattr(response, "headers", None) or {}
        return Refusal(code, headers, details, in_stream)


def break_stream_cycle(response: Any) -> None:
    """Let the connection of an async stream that is dropped half read be closed at once.

    The SDK's response keeps the generator that reads it, and that refers back to the response: both would stay until
    the garbage collector comes by. The generator can as well read a copy.
    """
    if not isinstance(response.response_stream, list):
        response.async_segments = copy(response).async_segments


def _neutralise_body(body: Mapping[str, Any]) -> dict[str, object]:
    """Return a request's body under the names that the toolkit reads."""
    config = body.get("generationConfig") or {}
    neutral = {
        "input": body.get("contents") or body.get("content") or body.get("requests") or body.get("instances"),
        "system": body.get("systemInstruction"),
        "tools": body.get("tools"),
        "response_format": config.get("responseSchema") or config.get("responseJsonSchema"),
        "max_output_tokens": config.get("maxOutputTokens"),
        "n": config.get("candidateCount"),
        "temperature": config.get("temperature"),
        "top_p": config.get("topP"),
        "top_k": config.get("topK"),
        "seed": config.get("seed"),
        "frequency_penalty": config.get("frequencyPenalty"),
        "presence_penalty": config.get("presencePenalty"),
    }
    return {name: value for name, value in neutral.items() if value is not None}


def _is_text_to_embed(body: Mapping[str, Any]) -> bool:
    """Return whether a prediction on Vertex AI is of embeddings; else it is of images, with a prompt."""
    instances = body.get("instances") or ()
    return any("content" in each for each in instances if isinstance(each, Mapping))


def _parse_body(body: Any) -> Mapping[str, Any]:
    """Return the JSON object of a body; an empty one for anything else, such as a proxy's page of HTML."""
    try:
        known = json.loads(body)
    except (TypeError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _read_figures(known: Mapping[str, Any], meter: UsageMeter) -> None:
    usage = known.get("usageMetadata")
    if usage:
        # Cached tokens are a part of the prompt's; thoughts and the results of tools are counted apart.
        meter.input_tokens = (usage.get("promptTokenCount") or 0) + (usage.get("toolUsePromptTokenCount") or 0)
        meter.cache_read_tokens = usage.get("cachedContentTokenCount")
        thoughts = meter.reasoning_tokens = usage.get("thoughtsTokenCount")
        candidates = usage.get("candidatesTokenCount")
        if candidates is not None or thoughts is not None:
            meter.output_tokens = (candidates or 0) + (thoughts or 0)
        _read_modalities(usage, meter)
        meter.service_tier = _read_tier(usage) or meter.service_tier
    predictions = known.get("predictions") or ()
    statistics = [(each.get("embeddings") or {}).get("statistics") or {} for each in predictions]
    if any(statistics):
        meter.input_tokens = sum(int(each.get("token_count") or 0) for each in statistics)
        meter.output_tokens = 0
    meter.model = known.get("modelVersion") or meter.model
    meter.response_id = known.get("responseId") or meter.response_id
    reasons = [candidate.get("finishReason") for candidate in known.get("candidates") or ()]
    if any(reasons):
        meter.finish_reasons = tuple(_FINISH_REASONS.get(reason, reason.lower()) for reason in reasons if reason)
    for candidate in known.get("candidates") or ():
        if grounding := candidate.get("groundingMetadata"):
            _read_grounding(grounding, meter)


def _read_modalities(usage: Mapping[str, Any], meter: UsageMeter) -> None:
    """Note the tokens that are not of text. Those of the prompt include the cached ones."""
    cached, prompt = (
        _count_by_modality(usage, *names)
        for names in (("cacheTokensDetails",), ("promptTokensDetails", "toolUsePromptTokensDetails"))
    )
    for modality, count in prompt.items():
        read = cached.get(modality, 0)
        meter.set_item(f"input_{modality}_tokens", count - read)
        meter.set_item(f"cache_{modality}_read_tokens", read)
    for modality, count in _count_by_modality(usage, "candidatesTokensDetails").items():
        meter.set_item(f"output_{modality}_tokens", count)


def _count_by_modality(usage: Mapping[str, Any], *names: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        for detail in usage.get(name) or ():
            modality = _MODALITIES.get(detail.get("modality"))
            if modality is not None:
                counts[modality] = counts.get(modality, 0) + (detail.get("tokenCount") or 0)
    return counts


def _read_tier(usage: Mapping[str, Any]) -> str | None:
    """Return the service tier: Gemini's own word, else what Vertex AI's type of traffic means."""
    tier = usage.get("serviceTier")
    if isinstance(tier, str):
        tier = tier.lower().removeprefix("service_tier_")
        return None if tier == "unspecified" else tier
    return _TRAFFIC_TIERS.get(usage.get("trafficType") or "")


def _read_grounding(grounding: Mapping[str, Any], meter: UsageMeter) -> None:
    """Count searches: Gemini 3 and later bill each query, earlier models each grounded answer."""
    searches = len(grounding.get("webSearchQueries") or ()) + len(grounding.get("imageSearchQueries") or ())
    if searches:
        is_billed_once = (meter.model or "").startswith(_ONCE_BILLED_MODELS)
        meter.set_item("web_searches", 1 if is_billed_once else searches)
    if any("maps" in chunk for chunk in grounding.get("groundingChunks") or ()):
        meter.set_item("map_searches", 1)
