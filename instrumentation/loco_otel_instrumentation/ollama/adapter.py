"""Translates between Ollama's SDK and the scheduler."""

from collections.abc import Mapping
from typing import Any

from loco_otel.patching import CallDescription, ExtendedRequest, Refusal, UsageMeter, as_mapping

_OPERATIONS = {
    "/api/chat": "chat",
    "/api/generate": "text_completion",
    "/api/embed": "embeddings",
    "/api/embeddings": "embeddings",
    "/v1/systemone": "chat",
}
"""`gen_ai.operation.name` by path."""
_OPTIONS = {
    "num_predict": "max_tokens",
    **dict.fromkeys(("temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty")),
}
"""Names of the options that the toolkit reads, and its own where they differ."""
_IMAGES = "images"
_IN_STREAM = -1
"""The status of an error that came within a stream."""


class OllamaAdapter:
    """See `loco_otel.patching.Adapter`. A request is the arguments of `_request`, by name."""

    sdk = "ollama"

    def describe_call(self, client: Any, options: Mapping[str, Any]) -> CallDescription | None:
        """Describe a request; return None if it is no call of a model."""
        operation = _OPERATIONS.get(options["url"])
        if operation is None:
            return None
        body = options["json"]
        return CallDescription(
            "ollama", operation, body.get("model") or None, _neutralise_body(body), client._client.base_url
        )

    def request_usage(self, _: Any) -> ExtendedRequest | None:
        """Return None: each stream contains its usage."""
        return None

    def with_model(self, options: Mapping[str, Any], model: str | None) -> Any:
        """Return a request that is sent with another model."""
        return {**options, "json": {**options["json"], "model": model}}

    def read_answer(self, answer: Any, meter: UsageMeter) -> None:
        """Note what a whole answer contains."""
        self.read_chunk(answer, meter)
        usage = as_mapping(as_mapping(answer).get("usage"))  # of System One
        if "input_tokens" in usage:
            meter.input_tokens, meter.output_tokens = usage["input_tokens"], usage.get("output_tokens") or 0

    def read_chunk(self, chunk: Any, meter: UsageMeter) -> None:
        """Note what a chunk contains: the last one has the figures."""
        known = as_mapping(chunk)
        message = as_mapping(known.get("message"))
        meter.characters += len(message.get("content") or known.get("response") or "")
        meter.characters += len(message.get("thinking") or known.get("thinking") or "")
        if meter.model is None:
            meter.model = known.get("model")
        self.read_usage(chunk, meter)

    def read_usage(self, chunk: Any, meter: UsageMeter) -> None:
        """Note only the server's figures."""
        known = as_mapping(chunk)
        if known.get("done_reason"):
            meter.finish_reasons = (known["done_reason"],)
        # Embeddings have no output. A prompt that the server has in its memory may have no count.
        if known.get("prompt_eval_count") is not None:
            meter.input_tokens = known["prompt_eval_count"]
        if known.get("eval_count") is not None:
            meter.output_tokens = known["eval_count"]
        elif known.get("embeddings") is not None:
            meter.output_tokens = 0

    def is_spend_limit(self, _: Mapping[str, object]) -> bool:
        """Return False: a server of Ollama refuses for load alone."""
        return False

    def read_error_status(self, _: Mapping[str, object]) -> int | None:
        """Return None: the errors of this SDK are read by `read_refusal`."""
        return None

    def read_refusal(self, error: BaseException) -> Refusal | None:
        """Read a `ResponseError`."""
        status = getattr(error, "status_code", None)
        if not isinstance(status, int):
            return None
        return Refusal(500, in_stream=True) if status == _IN_STREAM else Refusal(status)


def _neutralise_body(body: Mapping[str, Any]) -> dict[str, object]:
    """Return a request's body under the names that the toolkit reads."""
    neutral = {
        name: body[name]
        for name in ("prompt", "suffix", "system", "input", "tools", "stream")
        if body.get(name) is not None
    }
    if "messages" in body:
        neutral["messages"] = [_neutralise_message(message) for message in body["messages"]]
    if body.get("state") is not None:
        neutral["input"] = [body["state"], body.get("questions")]
    if body.get(_IMAGES):
        neutral["instructions"] = _describe_images(body[_IMAGES])
    if body.get("format"):
        neutral["response_format"] = body["format"]
    given = body.get("options") or {}
    for name, own in _OPTIONS.items():
        value = given.get(name)
        if value is not None and not (own and value < 0):  # a negative number of tokens is no limit
            neutral[own or name] = value
    return neutral


def _neutralise_message(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a message whose images are parts, as in other APIs; here they are base64 beside the text."""
    if not message.get(_IMAGES):
        return message
    text = {"type": "text", "text": message.get("content") or ""}
    rest = {name: value for name, value in message.items() if name != _IMAGES}
    return {**rest, "content": [text, *_describe_images(message[_IMAGES])]}


def _describe_images(images: Any) -> list[dict[str, str]]:
    return [{"type": "image"} for _ in images]
