"""The adapter for OpenAI's SDK: chat completions under a slot, weighed by model and prompt."""

from operator import attrgetter
from typing import Any

from loco_otel.compat.adapters.client_calls import ClientCalls, is_open_response, read_total_tokens
from loco_otel.compat.adapters.model_weights import compute_weight
from loco_otel.compat.async_scheduler import AsyncLOCOScheduler
from loco_otel.patching.adapter import UsageMeter
from loco_otel.patching.dialects.openai_chat import read_completion_chunk

MODEL_WEIGHTS = {
    "o3": 5.0,
    "o4-mini": 2.0,
    "gpt-4.1": 3.0,
    "gpt-4.1-mini": 1.5,
    "gpt-4.1-nano": 1.0,
    "gpt-4o": 3.0,
    "gpt-4o-mini": 1.0,
}
"""The weight of a call by model, for a prompt of up to 1000 tokens."""


def estimate_weight(model: str, input_tokens: int | None = None) -> float:
    """Return the weight of a call.

    Args:
        model: name from the request, with or without a date.
        input_tokens: of the prompt; the weight grows with those above 1000.

    Example:
        >>> estimate_weight('gpt-4o-mini-2024-07-18'), estimate_weight('gpt-4o', 2000)
        (1.0, 6.0)

    """
    return compute_weight(MODEL_WEIGHTS, model, input_tokens or 0)


class OpenAIAdapter:
    """Schedules the chat completions of a client. Several calls may run at once.

    Args:
        scheduler: the scheduler of the slots.
        client: an `openai.AsyncOpenAI`, or an `openai.OpenAI`, whose calls run in threads. Without one, calls are
            scheduled and not sent.
        default_agent_id: the agent of calls that name none.

    """

    def __init__(self, scheduler: AsyncLOCOScheduler, client: Any = None, default_agent_id: str = "openai") -> None:
        self._client = client
        self._default_agent_id = default_agent_id
        self._calls = ClientCalls(
            scheduler, "openai", count_tokens=read_total_tokens, read_chunk=_read_chunk, is_open=is_open_response
        )

    async def create(
        self,
        agent_id: str | None = None,
        *,
        model: str = "gpt-4o",
        messages: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call `client.chat.completions.create` under a slot, and return its answer.

        A stream (`stream=True`) holds its slot until it is read out, closed or dropped.

        Args:
            agent_id: the calling agent; registered if unknown.
            model: the model.
            messages: the conversation.
            kwargs: further arguments of the SDK's method.

        Raises:
            AcquireRejectedError: the request was rejected, and nothing was sent.

        """
        arguments = {"model": model, "messages": messages or [], **kwargs}
        return await self._calls.run_request(
            agent_id or self._default_agent_id,
            arguments,
            estimate_weight,
            self._client,
            attrgetter("chat.completions.create"),
        )

    async def create_chat(self, agent_id: str | None = None, **kwargs: Any) -> Any:
        """Do as `create`: the name in loco-agent's documentation."""
        return await self.create(agent_id, **kwargs)


def _read_chunk(chunk: Any, meter: UsageMeter) -> None:
    known = vars(chunk)
    read_completion_chunk(known, known.get("choices") or (), meter)
