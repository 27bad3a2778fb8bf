"""The adapter for Google ADK: each call of a model under a slot, from the callback before it to the one after it.

adapter = ADKAdapter(scheduler)
runner = InMemoryRunner(agent, plugins=[adapter.create_plugin()])   # all agents of a runner
agent = LlmAgent(..., before_model_callback=adapter.before_model,
                 after_model_callback=adapter.after_model, on_model_error_callback=adapter.on_model_error)
"""

from collections.abc import Hashable
from typing import Any

from loco_otel.compat.adapters.frameworks import import_framework
from loco_otel.compat.adapters.model_weights import compute_weight
from loco_otel.compat.adapters.open_calls import OpenCalls
from loco_otel.compat.async_scheduler import AsyncLOCOScheduler
from loco_otel.compat.task import Task
from loco_otel.patching.adapter import get_field
from loco_otel.patching.request_size import estimate_tokens

MODEL_WEIGHTS = {
    "gemini-2.5-pro": 3.0,
    "gemini-2.5-flash": 1.5,
    "gemini-2.0-flash": 1.0,
    "gemini-1.5-pro": 2.0,
    "gemini-1.5-flash": 1.0,
}
"""The weight of a call by model, for a prompt of up to 1000 tokens."""


class ADKAdapter:
    """Schedules the model calls of ADK agents, each under the agent's name. Several may run at once.

    Without `on_model_error`, the slot of a call that failed is released when its request is destroyed.

    Args:
        scheduler: the scheduler of the slots.

    """

    def __init__(self, scheduler: AsyncLOCOScheduler) -> None:
        self._calls = OpenCalls(scheduler)

    async def before_model(self, ctx: Any = None, llm_request: Any = None, *, callback_context: Any = None) -> Any:
        """Acquire the slot of a call: an agent's `before_model_callback`.

        Args:
            ctx: what ADK passes as `callback_context`.
            llm_request: the request. The slot is released at the latest when it is destroyed.
            callback_context: ADK's keyword.

        Returns:
            None, which sends the request.

        Raises:
            AcquireRejectedError: the request was rejected.

        """
        context = _choose_context(ctx, callback_context)
        model = get_field(llm_request, "model") or get_field(context, "model") or ""
        weight = compute_weight(MODEL_WEIGHTS, model, _estimate_prompt(llm_request))
        task = Task(weight=weight, task_type=f"google_adk:{model}")
        await self._calls.begin_call(_make_key(context), context.agent_name, task, owner=llm_request)

    async def after_model(self, ctx: Any = None, llm_response: Any = None, *, callback_context: Any = None) -> Any:
        """Release the slot of a call: an agent's `after_model_callback`.

        A partial response of a stream keeps the slot.

        Returns:
            The response where it was passed by position, as in loco-agent. None under ADK's keywords, so that the
            agent's other callbacks run too.

        """
        key = _make_key(_choose_context(ctx, callback_context))
        if get_field(llm_response, "partial"):
            self._calls.leave_scope(key)
        else:
            usage = get_field(llm_response, "usage_metadata")
            self._calls.end_call(key, tokens=get_field(usage, "total_token_count") or 0)
        return llm_response if callback_context is None else None

    async def on_model_error(
        self,
        ctx: Any = None,
        llm_request: Any = None,  # noqa: ARG002 - ADK's
        error: BaseException | None = None,
        *,
        callback_context: Any = None,
    ) -> None:
        """Release the slot of a failed call, which costs nothing: an agent's `on_model_error_callback`."""
        failure = RuntimeError("the call of the model has failed") if error is None else error
        self._calls.end_call(_make_key(_choose_context(ctx, callback_context)), error=failure)

    def create_plugin(self, name: str = "loco_otel") -> Any:
        """Return a plugin for `Runner` or `App`, which schedules the calls of all their agents.

        Raises:
            ImportError: google-adk is not installed.

        """
        base: Any = import_framework(
            "google.adk.plugins.base_plugin", "google-adk", "ADKAdapter.create_plugin"
        ).BasePlugin
        adapter = self

        class SchedulingPlugin(base):  # type: ignore[misc] # ADK's, imported only here
            """Passes the callbacks of all agents to an adapter."""

            async def before_model_callback(self, *, callback_context: Any, llm_request: Any) -> Any:
                return await adapter.before_model(None, llm_request, callback_context=callback_context)

            async def after_model_callback(self, *, callback_context: Any, llm_response: Any) -> Any:
                return await adapter.after_model(None, llm_response, callback_context=callback_context)

            async def on_model_error_callback(
                self, *, callback_context: Any, llm_request: Any, error: Exception
            ) -> Any:
                return await adapter.on_model_error(None, llm_request, error, callback_context=callback_context)

        return SchedulingPlugin(name)


def _choose_context(ctx: Any, callback_context: Any) -> Any:
    context = ctx if callback_context is None else callback_context
    if context is None:
        raise TypeError("the callback needs the context of the agent: ctx, or ADK's callback_context")
    return context


def _make_key(context: Any) -> Hashable:
    """Return what identifies the call of an agent among those that run at once: its invocation, branch and name."""
    invocation = getattr(context, "_invocation_context", None)
    return (getattr(context, "invocation_id", None), getattr(invocation, "branch", None), context.agent_name)


def _estimate_prompt(request: Any) -> int:
    contents = get_field(request, "contents") or ()
    texts = [get_field(part, "text") or "" for content in contents for part in get_field(content, "parts") or ()]
    instruction = get_field(get_field(request, "config"), "system_instruction")
    return estimate_tokens({"input": texts, "instructions": instruction if isinstance(instruction, str) else ""})


def _estimate_weight(model: str) -> float:
    """Return the weight of a short call. loco-agent's own tests call it."""
    return compute_weight(MODEL_WEIGHTS, model)
