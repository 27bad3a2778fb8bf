"""Calls of an SDK's client, each under a slot from its request to the end of its answer.

With the SDK patched as well, its call runs under this slot and is not scheduled a second time.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from loco_otel.compat.adapters.leased_call import LeasedCall
from loco_otel.compat.async_scheduler import AsyncLOCOScheduler
from loco_otel.compat.functions import run_under_lease
from loco_otel.compat.lease import Lease
from loco_otel.compat.task import Task
from loco_otel.patching.adapter import UsageMeter, as_mapping, get_field
from loco_otel.patching.request_size import estimate_tokens
from loco_otel.patching.response_body import follow_answer

_logger = logging.getLogger("loco_otel")

TakeOver = Callable[[LeasedCall, Any], Any]
"""Ties the end of a call to its answer's body, and returns what the program reads; None if the answer is complete."""

_TOKEN_FIELDS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


def follow_http_answer(call: LeasedCall, answer: Any) -> Any:
    """Tie the end of a call to that of the HTTP response that its answer reads."""
    follow_answer(call, answer)
    return answer


class ClientCalls:
    """Schedules the calls of one client. Thread-safe.

    Args:
        scheduler: the scheduler of the slots.
        sdk: the SDK's import name, with which the task types of its calls begin.
        count_tokens: returns the tokens that a whole answer reports.
        read_chunk: reads the usage of one event of a stream.
        is_open: whether an answer's body is still to be read.
        take_over: follows such an answer.

    """

    def __init__(
        self,
        scheduler: AsyncLOCOScheduler,
        sdk: str,
        *,
        count_tokens: Callable[[Any], int],
        read_chunk: Callable[[Any, UsageMeter], None],
        is_open: Callable[[Any], bool],
        take_over: TakeOver = follow_http_answer,
    ) -> None:
        self.scheduler = scheduler
        self._sdk = sdk
        self._count_tokens = count_tokens
        self._read_chunk = read_chunk
        self._is_open = is_open
        self._take_over = take_over

    async def run_request(
        self,
        agent_id: str,
        arguments: Mapping[str, Any],
        estimate_weight: Callable[[str, int], float],
        client: Any,
        find_method: Callable[[Any], Callable[..., Any]],
    ) -> Any:
        """Send a request by a client, see `run_call`; without a client, return the answer of a mock.

        Args:
            agent_id: the calling agent; registered if unknown.
            arguments: the request, with its model.
            estimate_weight: returns the weight of a call from its model and the tokens of its prompt.
            client: a client of the SDK, or None.
            find_method: returns the client's method.

        Raises:
            AcquireRejectedError: the request was rejected, and nothing was sent.

        """
        model, tokens = arguments["model"], estimate_tokens(arguments)
        weight = estimate_weight(model, tokens)
        if client is None:
            return await self.run_mock(agent_id, model, weight)
        is_async = is_async_client(client)
        return await self.run_call(
            agent_id, model, weight, find_method(client), arguments, is_async=is_async, prompt_tokens=tokens
        )

    async def run_call(
        self,
        agent_id: str,
        model: str,
        weight: float,
        method: Callable[..., Any],
        arguments: Mapping[str, Any],
        *,
        is_async: bool,
        prompt_tokens: int = 0,
    ) -> Any:
        """Call a client's method under a slot, and return its answer. A sync method runs in a thread.

        A stream holds the slot until it is read out, closed or dropped.

        Args:
            agent_id: the calling agent; registered if unknown.
            model: the model that answers.
            weight: the weight of the call.
            method: the client's method.
            arguments: its keyword arguments.
            is_async: whether the method returns an awaitable.
            prompt_tokens: the estimated tokens of the prompt.

        Raises:
            AcquireRejectedError: the request was rejected, and the method was not called.

        """
        task = Task(weight=weight, task_type=f"{self._sdk}:{model}")
        record_tokens = partial(self.scheduler.metrics.record_actual_tokens, agent_id, task)

        def take_over(lease: Lease, answer: Any) -> Any:
            if not self._is_open(answer):
                tokens = self._count_tokens(answer)
                if tokens:
                    record_tokens(tokens)
                return None
            call = LeasedCall(self._sdk, lease, self._read_chunk, record_tokens, prompt_tokens)
            return self._take_over(call, answer)

        lease = self.scheduler.hold(agent_id, task)
        return await run_under_lease(lease, partial(method, **arguments), is_async=is_async, take_over=take_over)

    async def run_mock(self, agent_id: str, model: str, weight: float) -> dict[str, Any]:
        """Schedule a call that is sent to no provider, and return loco-agent's answer of a mock."""
        _logger.warning(
            "the %s adapter has no client, so that a call to %s is scheduled but not sent (pass client=)",
            self._sdk,
            model,
        )
        lease = self.scheduler.hold(agent_id, Task(weight=weight, task_type=f"{self._sdk}:{model}"))
        async with lease:
            return {"agent_id": agent_id, "model": model, "status": "completed"}


def is_async_client(client: Any) -> bool:
    """Return whether the methods of a client return awaitables."""
    return hasattr(type(client), "__aenter__")


def is_open_response(answer: Any) -> bool:
    """Return whether an answer of a Stainless SDK is a stream, whose body is still to be read."""
    return hasattr(answer, "_iterator") and hasattr(answer, "response")


def sum_tokens(answer: Any) -> int:
    """Return the sum of the token counts that a whole answer reports; 0 if it reports none."""
    usage = as_mapping(get_field(answer, "usage"))
    counts = [usage.get(field) for field in _TOKEN_FIELDS]
    return sum(count for count in counts if isinstance(count, int))


def read_total_tokens(answer: Any) -> int:
    """Return the total that a whole answer reports; 0 if it reports none."""
    usage = as_mapping(get_field(answer, "usage"))
    total = usage.get("total_tokens", usage.get("totalTokens"))
    return total if isinstance(total, int) else 0
