"""Translates between the Claude Agent SDK and the scheduler."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loco_otel.patching import CallDescription, ExtendedRequest, Refusal, UsageMeter, accept_no_model, parse_address
from loco_otel_instrumentation.claude_agent_sdk.results import TurnFailedError, TurnFigures

_PROVIDER = "anthropic"
_BASE_URL = "ANTHROPIC_BASE_URL"


class ClaudeAgentAdapter:
    """See `loco_otel.patching.Adapter`. A request is the arguments of `query`, by name."""

    sdk = "claude_agent_sdk"

    def describe_call(self, client: Any, request: Mapping[str, Any]) -> CallDescription:
        """Describe a turn. A connected client has started its child process, so its model cannot be replaced."""
        options = request["options"]
        url = options.env.get(_BASE_URL)
        prompt, system = request.get("prompt"), options.system_prompt
        body: dict[str, object] = {}
        if isinstance(prompt, str):
            body["messages"] = [{"role": "user", "content": prompt}]
        if isinstance(system, str):
            body["system"] = system
        is_fixed = client is not None or request.get("transport") is not None
        return CallDescription(
            _PROVIDER,
            "invoke_agent",
            options.model,
            body,
            None if url is None else parse_address(url),
            accepts_model=accept_no_model if is_fixed else None,
        )

    def request_usage(self, _: Any) -> ExtendedRequest | None:
        """Return None: each turn ends with its usage."""
        return None

    def with_model(self, request: Mapping[str, Any], model: str | None) -> Any:
        """Return a request whose child process has another model."""
        return {**request, "options": replace(request["options"], model=model)}

    def read_answer(self, figures: TurnFigures, meter: UsageMeter) -> None:
        """Read the figures of a turn."""
        meter.input_tokens, meter.output_tokens = figures.input_tokens, figures.output_tokens
        meter.cache_read_tokens, meter.cache_write_tokens = figures.cache_read_tokens, figures.cache_write_tokens
        meter.model = figures.model or meter.model
        if figures.stop_reason:
            meter.finish_reasons = (figures.stop_reason,)
        meter.set_item("web_searches", figures.web_searches)
        # For the models of all requests, which a turn's sum does not separate.
        meter.set_reported_charge(figures.usd)

    def read_chunk(self, message: Any, meter: UsageMeter) -> None:
        """Measure the text of a message, for a turn that is broken off."""
        meter.model = getattr(message, "model", None) or meter.model
        for block in getattr(message, "content", None) or ():
            meter.characters += len(getattr(block, "text", None) or getattr(block, "thinking", None) or "")

    def read_usage(self, _: Any, __: UsageMeter) -> None:
        """Read nothing: the last message alone has a turn's usage."""

    def is_spend_limit(self, _: Mapping[str, object]) -> bool:
        """Return False: the child process does not pass on why a request was refused."""
        return False

    def read_error_status(self, _: Mapping[str, object]) -> int | None:
        """Return None: `read_refusal` reads errors."""
        return None

    def read_refusal(self, error: BaseException) -> Refusal | None:
        """Return the status with which the last request of a turn was refused."""
        status = error.status if isinstance(error, TurnFailedError) else None
        return None if status is None else Refusal(status)
