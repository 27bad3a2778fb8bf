"""Translates between Hugging Face's SDK and the scheduler: OpenAI's chat completions, and two tasks of its own."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from loco_otel.patching import CallDescription, ExtendedRequest, UsageMeter, accept_no_model, parse_address
from loco_otel.patching.dialects.openai_chat import read_completion, read_completion_chunk, read_usage
from loco_otel.patching.dialects.provider_hosts import find_provider

_REQUEST = "request_parameters"
_CHAT = "conversational"
_OPERATIONS = {_CHAT: "chat", "text-generation": "text_completion", "feature-extraction": "embeddings"}
"""`gen_ai.operation.name` by task."""
_PROVIDER = "huggingface"
_ROUTED = re.compile(r"https://router\.huggingface\.co/(?!v1/|hf-inference/)([\w-]+)/")
"""The URL of a provider behind Hugging Face's router."""
_PARAMETERS = {"max_new_tokens": "max_tokens", **{name: name for name in ("temperature", "top_p", "top_k", "seed")}}
"""Parameters of text generation, by the name that the toolkit reads."""
_EVENT = "data:"
_STREAM_OPTIONS = "stream_options"


class HuggingFaceAdapter:
    """See `loco_otel.patching.Adapter`. A request is the arguments of `_inner_post`; chunks are lines of text."""

    sdk = "huggingface_hub"

    def describe_call(self, _: Any, options: Mapping[str, Any]) -> CallDescription | None:
        """Describe a request; return None if it is none of the tasks above."""
        request = options[_REQUEST]
        operation = _OPERATIONS.get(request.task)
        if operation is None:
            return None
        body = request.json if isinstance(request.json, Mapping) else {}
        url = parse_address(request.url)
        routed = _ROUTED.match(request.url)
        # For a server of one's own the SDK knows its URL as the model.
        model = next((each for each in (body.get("model"), request.model) if _is_name(each)), None)
        return CallDescription(
            f"{_PROVIDER}_{routed[1]}" if routed else find_provider(url) or _PROVIDER,
            operation,
            model,
            body if request.task == _CHAT else _neutralise_body(body),
            url,
            # Elsewhere the model is a part of the URL, or the only one of its server.
            accepts_model=None if "model" in body and "/models/" not in request.url else accept_no_model,
        )

    def request_usage(self, options: Mapping[str, Any]) -> ExtendedRequest | None:
        """Request the usage of a stream of completions, and conceal the chunk that contains it alone."""
        body = options[_REQUEST].json
        if options[_REQUEST].task != _CHAT or not options.get("stream") or body.get(_STREAM_OPTIONS):
            return None
        return ExtendedRequest(_replace_json(options, {_STREAM_OPTIONS: {"include_usage": True}}), _is_usage_alone)

    def with_model(self, options: Mapping[str, Any], model: str | None) -> Any:
        """Return a request that is sent with another model."""
        return _replace_json(options, {"model": model})

    def read_answer(self, answer: Any, meter: UsageMeter) -> None:
        """Note what a whole answer contains: JSON as bytes."""
        known = json.loads(answer)
        if isinstance(known, Mapping) and "choices" in known:
            read_completion(known, known["choices"], meter)
            return
        first = known[0] if isinstance(known, list) and known else known
        if isinstance(first, Mapping):
            meter.characters += len(first.get("generated_text") or "")
            _read_generated(first, meter)

    def read_chunk(self, chunk: Any, meter: UsageMeter) -> None:
        """Note what a line contains."""
        known = _parse_line(chunk)
        if known is None:
            return
        if "choices" in known:
            read_completion_chunk(known, known["choices"], meter)
        else:
            meter.characters += len((known.get("token") or {}).get("text") or "")
            _read_generated(known, meter)

    def read_usage(self, chunk: Any, meter: UsageMeter) -> None:
        """Note only the provider's figures."""
        known = _parse_line(chunk) if "usage" in chunk or "details" in chunk else None
        if known is not None:
            read_usage(known.get("usage"), meter)
            _read_generated(known, meter)

    def is_spend_limit(self, _: Mapping[str, object]) -> bool:
        """Return False: used up credits are another status, 402."""
        return False

    def read_error_status(self, _: Mapping[str, object]) -> int | None:
        """Return None: an error within a stream has no status."""
        return None


def _is_name(model: Any) -> bool:
    return isinstance(model, str) and bool(model) and not model.startswith(("http://", "https://"))


def _replace_json(options: Mapping[str, Any], values: Mapping[str, object]) -> dict[str, Any]:
    request = options[_REQUEST]
    return {**options, _REQUEST: replace(request, json={**request.json, **values})}


def _neutralise_body(body: Mapping[str, Any]) -> dict[str, object]:
    """Return the body of another task than chat under the names that the toolkit reads."""
    given = body.get("parameters") or {}
    neutral = {own: given[name] for name, own in _PARAMETERS.items() if given.get(name) is not None}
    return {**neutral, "input": body.get("inputs") or body.get("input"), "stream": body.get("stream")}


def _parse_line(line: Any) -> dict[str, Any] | None:
    """Return the event of a line of text; None for others, and for the mark of the end."""
    if line.startswith(_EVENT):
        with suppress(ValueError):
            event = json.loads(line[len(_EVENT) :])
            if isinstance(event, dict):
                return event
    return None


def _is_usage_alone(line: Any) -> bool:
    event = _parse_line(line) if "usage" in line else None
    return event is not None and event.get("choices") == [] and bool(event.get("usage"))


def _read_generated(known: Mapping[str, Any], meter: UsageMeter) -> None:
    """Note the details of a generated text, which the program may ask for: they count the tokens of the answer."""
    details = known.get("details")
    if isinstance(details, Mapping):
        meter.output_tokens = details.get("generated_tokens")
        if details.get("finish_reason"):
            meter.finish_reasons = (details["finish_reason"],)
        if details.get("prefill"):
            meter.input_tokens = len(details["prefill"])
