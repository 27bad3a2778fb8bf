"""Translates between LiteLLM and the scheduler: its answers are OpenAI's, of whatever provider."""

import sys
from collections.abc import Mapping
from typing import Any

from loco_otel.patching import CallDescription, ExtendedRequest, Refusal, UsageMeter, as_mapping, get_field
from loco_otel.patching.dialects import anthropic_messages, openai_responses
from loco_otel.patching.dialects.openai_chat import read_completion, read_completion_chunk, read_usage
from loco_otel_instrumentation.litellm import errors
from loco_otel_instrumentation.litellm.cache import is_from_cache, is_stream
from loco_otel_instrumentation.litellm.routes import find_route

_STREAM_OPTIONS = "stream_options"
_BILLED_COSTS = frozenset({"openrouter", "perplexity", "xai"})
"""LiteLLM's names of providers that report what they charge. For others LiteLLM fills in a price of its own."""


class LiteLLMAdapter:
    """See `loco_otel.patching.Adapter`. A request is the arguments of a function, by name.

    Args:
        operation: as `gen_ai.operation.name` has it.
        async_flag: the argument by which the async function has the sync one return a coroutine. The call is then
            that of the async function.
        sends_usage: whether all streams contain their usage.

    """

    sdk = "litellm"

    def __init__(self, operation: str, async_flag: str, *, sends_usage: bool) -> None:
        self._operation = operation
        self._async_flag = async_flag
        self._sends_usage = sends_usage

    def describe_call(self, _: Any, given: Mapping[str, Any]) -> CallDescription | None:
        """Describe a request; return None if no provider is asked, or the async function makes the call."""
        model = given.get("model") or given.get("engine")
        if not isinstance(model, str) or given.get(self._async_flag) or given.get("mock_response") is not None:
            return None
        route = find_route(model, given.get("custom_llm_provider"), given.get("api_base") or given.get("base_url"))
        return CallDescription(
            route.provider, self._operation, route.model, given, route.address, has_sdk_span=_makes_spans()
        )

    def request_usage(self, given: Mapping[str, Any]) -> ExtendedRequest | None:
        """Request the usage of a stream of completions, and remove the chunk that contains it."""
        if self._sends_usage or given.get("stream") is not True:
            return None
        options = given.get(_STREAM_OPTIONS) or {}
        if not isinstance(options, Mapping) or "include_usage" in options:
            return None
        return ExtendedRequest({**given, _STREAM_OPTIONS: {**options, "include_usage": True}}, _is_usage_chunk)

    def with_model(self, given: Mapping[str, Any], model: str | None) -> Any:
        """Return a request that is sent with another model of the same provider."""
        name = "model" if given.get("model") else "engine"
        asked = given[name]
        sent = find_route(asked, given.get("custom_llm_provider"), None).model
        prefix = asked.removesuffix(sent) if sent != asked and asked.endswith(sent) else ""
        return {**given, name: f"{prefix}{model}"}

    def read_answer(self, answer: Any, meter: UsageMeter) -> None:
        """Read a whole answer, or that a stream is from LiteLLM's cache."""
        is_cached = is_from_cache(answer)
        if is_cached:
            meter.input_tokens = meter.output_tokens = 0  # no provider was asked
            if is_stream(answer):
                return
        known = {**as_mapping(answer), "usage": None if is_cached else get_field(answer, "usage")}
        choices = known.get("choices")
        if choices is None:
            openai_responses.read_response(known, meter)
        else:
            read_completion(known, choices, meter)
        if not is_cached:
            _read_details(answer, meter)

    def read_chunk(self, chunk: Any, meter: UsageMeter) -> None:
        """Read one chunk of a completion, or one event of the Responses API."""
        known = as_mapping(chunk)
        choices = known.get("choices")
        if choices is None:
            openai_responses.read_responses_event(known, meter)
        else:
            read_completion_chunk(known, choices, meter)
            self.read_usage(chunk, meter)

    def read_usage(self, chunk: Any, meter: UsageMeter) -> None:
        """Read only the usage of one chunk."""
        known = as_mapping(chunk)
        if (response := known.get("response")) is not None:
            openai_responses.read_response(as_mapping(response), meter)
        elif (usage := get_field(chunk, "usage")) is not None:
            read_usage(usage, meter)
            _read_details(chunk, meter)

    def is_spend_limit(self, error: Mapping[str, object]) -> bool:
        """Return whether the JSON of a 429, of whatever provider, means that money has run out."""
        return openai_responses.is_spend_limit(error) or anthropic_messages.is_spend_limit(error)

    def read_error_status(self, error: Mapping[str, object]) -> int | None:
        """Return the HTTP status of an error whose JSON came within a stream."""
        return openai_responses.read_error_status(error) or anthropic_messages.read_error_status(error)

    def read_refusal(self, error: BaseException) -> Refusal | None:
        """Read the provider's answer from an error of LiteLLM; None where there was none."""
        return errors.read_refusal(error, self.read_error_status)


def _makes_spans() -> bool:
    """Return whether LiteLLM makes the inference span of each call by itself, as a callback of it does."""
    package = sys.modules.get("litellm")
    callbacks = (*getattr(package, "callbacks", ()), *getattr(package, "success_callback", ()))
    return any(each == "otel" or type(each).__name__ == "OpenTelemetry" for each in callbacks)


def _is_usage_chunk(chunk: Any) -> bool:
    """Return whether a chunk contains only the usage that the program did not ask for."""
    if get_field(chunk, "usage") is None:
        return False
    # LiteLLM 1.106 gives it an empty choice.
    choices = get_field(chunk, "choices") or ()
    return not any(get_field(one, "finish_reason") or get_field(get_field(one, "delta"), "content") for one in choices)


def _read_details(answer: Any, meter: UsageMeter) -> None:
    """Read what LiteLLM names in its own way: tokens written to a cache, searches, and charges of providers."""
    usage = get_field(answer, "usage")
    details = get_field(usage, "prompt_tokens_details")
    if not meter.cache_write_tokens:
        meter.cache_write_tokens = get_field(details, "cache_creation_tokens") or meter.cache_write_tokens
    by_age = get_field(details, "cache_creation_token_details")
    if by_age is not None:
        meter.set_item("cache_write_1h_tokens", get_field(by_age, "ephemeral_1h_input_tokens"))
    tools = get_field(usage, "server_tool_use")
    if tools is not None:
        meter.set_item("web_searches", get_field(tools, "web_search_requests"))
    cost = get_field(usage, "cost")
    if cost and as_mapping(getattr(answer, "_hidden_params", None)).get("custom_llm_provider") in _BILLED_COSTS:
        meter.set_reported_charge(cost)
