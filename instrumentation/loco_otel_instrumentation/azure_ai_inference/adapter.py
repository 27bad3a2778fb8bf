"""Translates between Azure's SDK for inference and the scheduler: OpenAI's chat completions, as keyword arguments."""

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from loco_otel.patching import CallDescription, ExtendedRequest, Refusal, UsageMeter, accept_no_model, parse_address
from loco_otel.patching.dialects.openai_chat import read_completion, read_completion_chunk, read_usage
from loco_otel.patching.dialects.provider_hosts import find_provider

_PROVIDER = "azure.ai.inference"
_TRACING = "azure.ai.inference.tracing"


class AzureInferenceAdapter:
    """See `loco_otel.patching.Adapter`. A request is the arguments of the method, by name.

    Args:
        operation: `gen_ai.operation.name` of all calls.

    """

    sdk = "azure.ai.inference"

    def __init__(self, operation: str) -> None:
        self._operation = operation

    def describe_call(self, client: Any, options: Mapping[str, Any]) -> CallDescription | None:
        """Describe a request."""
        given = options.get("body")
        body = {**options, **given} if isinstance(given, Mapping) else dict(options)
        model = body.get("model") or getattr(client, "_model", None)
        url = parse_address(str(client._config.endpoint))
        return CallDescription(
            find_provider(url) or _PROVIDER,
            self._operation,
            model if isinstance(model, str) else None,
            body,
            url,
            has_sdk_span=self._operation == "chat" and _makes_span(),
            # A file is sent as it is.
            accepts_model=None if given is None or isinstance(given, Mapping) else accept_no_model,
        )

    def request_usage(self, _: Any) -> ExtendedRequest | None:
        """Return None: the service sends the usage of a stream unasked."""
        return None

    def with_model(self, options: Mapping[str, Any], model: str | None) -> Any:
        """Return a request that is sent with another model."""
        body = options.get("body")
        if isinstance(body, Mapping):
            return {**options, "body": {**body, "model": model}}
        return {**options, "model": model}

    def read_answer(self, answer: Any, meter: UsageMeter) -> None:
        """Note what a whole answer contains."""
        # Without the vectors of embeddings, which take long to convert.
        known = {name: value for name, value in answer.items() if name != "data"}
        usage = known.get("usage")
        if usage is not None:
            known["usage"] = usage.as_dict()
        read_completion(known, known.get("choices") or (), meter)
        reasons = [choice.finish_reason for choice in answer.get("choices") or ()]
        meter.finish_reasons = tuple([str(getattr(reason, "value", reason)) for reason in reasons if reason])

    def read_chunk(self, chunk: Any, meter: UsageMeter) -> None:
        """Note what a chunk contains, as JSON."""
        read_completion_chunk(chunk, chunk.get("choices") or (), meter)

    def read_usage(self, chunk: Any, meter: UsageMeter) -> None:
        """Note only the provider's figures."""
        read_usage(chunk.get("usage"), meter)

    def is_spend_limit(self, _: Mapping[str, object]) -> bool:
        """Return False: a 429 of Azure is a rate limit."""
        return False

    def read_error_status(self, _: Mapping[str, object]) -> int | None:
        """Return None: the errors of this SDK are read by `read_refusal`."""
        return None

    def read_refusal(self, error: BaseException) -> Refusal | None:
        """Read the response of an `HttpResponseError`, which is azure-core's."""
        response: Any = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        if not isinstance(status, int):
            return None
        headers = {str(name).lower(): value for name, value in response.headers.items()}
        body = None
        with suppress(Exception):  # not read yet, or no JSON
            body = json.loads(response.text())
        return Refusal(status, headers, body, in_stream=status == 200)  # noqa: PLR2004


def _makes_span() -> bool:
    """Return whether the SDK makes inference spans: the program has to ask for them."""
    if not getattr(sys.modules.get(_TRACING), "_inference_traces_enabled", False):
        return False
    settings: Any = getattr(sys.modules.get("azure.core.settings"), "settings", None)
    return settings is not None and settings.tracing_implementation() is not None
