"""The adapter for Anthropic's SDK: messages under a slot, weighed by model and prompt."""

from operator import attrgetter
from typing import Any

from loco_otel.compat.adapters.client_calls import ClientCalls, is_open_response, sum_tokens
from loco_otel.compat.adapters.model_weights import compute_weight
from loco_otel.compat.async_scheduler import AsyncLOCOScheduler
from loco_otel.patching.adapter import UsageMeter, get_field

MODEL_WEIGHTS = {
    "claude-opus-4-20250514": 5.0,
    "claude-sonnet-4-20250514": 2.0,
    "claude-haiku-4-5-20251001": 1.0,
}
"""The weight of a call by model, for a prompt of up to 1000 tokens. Other models have the weight of their family."""


def estimate_weight(model: str, input_tokens: int | None = None) -> float:
    """Return the weight of a call.

    Args:
        model: name from the request, with or without a date.
        input_tokens: of the prompt; the weight grows with those above 1000.

    Example:
        >>> estimate_weight('claude-opus-4-1'), estimate_weight('claude-haiku-4-5', 3000)
        (5.0, 3.0)

    """
    return compute_weight(MODEL_WEIGHTS, model, input_tokens or 0)


class AnthropicAdapter:
    """Schedules the messages of a client. Several calls may run at once.

    Args:
        scheduler: the scheduler of the slots.
        client: an `anthropic.AsyncAnthropic`, or an `anthropic.Anthropic`, whose calls run in threads. Without one,
            calls are scheduled and not sent.
        default_agent_id: the agent of calls that name none.

    """

    def __init__(self, scheduler: AsyncLOCOScheduler, client: Any = None, default_agent_id: str = "anthropic") -> None:
        self._client = client
        self._default_agent_id = default_agent_id
        self._calls = ClientCalls(
            scheduler, "anthropic", count_tokens=sum_tokens, read_chunk=_read_event, is_open=is_open_response
        )

    async def create(
        self,
        agent_id: str | None = None,
        *,
        model: str = "claude-sonnet-4-20250514",
        messages: list[dict[str, Any]] | None = None,
        max_tokens: int = 1024,
        **kwargs: Any,
    ) -> Any:
        """Call `client.messages.create` under a slot, and return its answer.

        A stream (`stream=True`) holds its slot until it is read out, closed or dropped.

        Args:
            agent_id: the calling agent; registered if unknown.
            model: the model.
            messages: the conversation.
            max_tokens: the most tokens of the answer.
            kwargs: further arguments of the SDK's method.

        Raises:
            AcquireRejectedError: the request was rejected, and nothing was sent.

        """
        arguments = {"model": model, "messages": messages or [], "max_tokens": max_tokens, **kwargs}
        return await self._calls.run_request(
            agent_id or self._default_agent_id, arguments, estimate_weight, self._client, attrgetter("messages.create")
        )

    async def create_message(self, agent_id: str | None = None, **kwargs: Any) -> Any:
        """Do as `create`: the name in loco-agent's documentation."""
        return await self.create(agent_id, **kwargs)


def _read_event(event: Any, meter: UsageMeter) -> None:
    """Note the usage that one event of a stream reports: input with the first, output with the last ones."""
    message = get_field(event, "message")
    if message is not None:
        meter.input_tokens = sum_tokens(message) - (get_field(message.usage, "output_tokens") or 0)
        meter.output_tokens = get_field(message.usage, "output_tokens")
        return
    usage = get_field(event, "usage")
    if usage is not None:
        meter.output_tokens = get_field(usage, "output_tokens")
    else:
        meter.characters += len(get_field(get_field(event, "delta"), "text") or "")
