"""The callback handler for LangChain: each call of a model under a slot, from its start to its end.

    llm = ChatOpenAI(callbacks=[LOCOCallbackHandler(scheduler, agent_id="analyst")])

The handler runs inline, in the context of the call, so that an SDK that is patched as well finds the slot there.
"""

import asyncio
import functools
import sys
from collections.abc import Callable, Coroutine, Mapping
from types import MethodType
from typing import Any
from uuid import UUID

from loco_otel.compat.adapters.frameworks import import_base, require_framework
from loco_otel.compat.adapters.model_weights import compute_weight
from loco_otel.compat.adapters.open_calls import OpenCalls
from loco_otel.compat.async_scheduler import AsyncLOCOScheduler
from loco_otel.compat.task import Task
from loco_otel.patching.adapter import get_field
from loco_otel.patching.request_size import estimate_tokens

MODEL_WEIGHTS = {
    "gpt-4o": 3.0,
    "gpt-4o-mini": 1.0,
    "gpt-4": 3.0,
    "gpt-3.5-turbo": 1.0,
    "claude-sonnet-4-20250514": 2.0,
    "claude-opus-4-20250514": 5.0,
    "claude-haiku-4-5-20251001": 1.0,
}
"""The weight of a call by model, for a prompt of up to 1000 tokens."""

_MODEL_FIELDS = ("model", "model_name", "model_id")
_SYNC_MANAGER = "langchain_core.callbacks.manager", "handle_event"
"""The function that calls the handlers of a sync call: its module and name."""


class _CallbackMethod:
    """A callback for both colours: it blocks for LangChain's sync calls, and is a coroutine function for all else.

    LangChain runs the coroutines of a sync call in another context and ignores their errors. There a rejection would
    not reject the call, and an SDK call would not find its slot.
    """

    def __init__(self, function: Callable[..., Coroutine[Any, Any, None]]) -> None:
        functools.update_wrapper(self, function)
        self.__name__ = function.__name__
        # `inspect.iscoroutinefunction` takes what has the attributes of a function for one.
        self.__code__ = function.__code__
        self.__defaults__ = function.__defaults__
        self.__kwdefaults__ = function.__kwdefaults__
        self._function = function

    def __get__(self, handler: Any, owner: type | None = None) -> Any:
        return self if handler is None else MethodType(self, handler)

    def __call__(self, handler: Any, /, *args: Any, **kwargs: Any) -> Any:
        if asyncio._get_running_loop() is not None and not _is_called_by_sync_manager():
            return self._function(handler, *args, **kwargs)
        try:
            self._function(handler, *args, blocks=True, **kwargs).send(None)
        except StopIteration:
            return None
        raise RuntimeError("a blocking callback has awaited")


def _is_called_by_sync_manager() -> bool:
    frame = sys._getframe(2)
    return (frame.f_globals.get("__name__"), frame.f_code.co_name) == _SYNC_MANAGER


_Base: Any = import_base("langchain_core.callbacks", "BaseCallbackHandler")


class LOCOCallbackHandler(_Base):  # type: ignore[misc] # a class of LangChain, where that is installed
    """Holds a slot for each run of a model, sync or async, streamed or not. Several may run at once.

    Args:
        scheduler: the scheduler of the slots.
        agent_id: the agent of the calls; registered if unknown.

    Raises:
        ImportError: langchain-core is not installed.

    """

    run_inline = True
    raise_error = True
    """A rejected request must reject the call. Nothing else raises."""

    def __init__(self, scheduler: AsyncLOCOScheduler, agent_id: str) -> None:
        require_framework(_Base, "langchain-core", "LOCOCallbackHandler")
        super().__init__()
        self.agent_id = agent_id
        self._calls = OpenCalls(scheduler)

    @_CallbackMethod
    async def on_llm_start(
        self,
        serialized: Mapping[str, Any] | None,
        prompts: list[str],
        *,
        run_id: UUID | None = None,
        blocks: bool = False,
        **kwargs: Any,
    ) -> None:
        """Acquire the slot of a completion, for a weight by model and prompts.

        Raises:
            AcquireRejectedError: the request was rejected.

        """
        await self._begin_run(serialized, kwargs, run_id, estimate_tokens({"prompt": prompts}), blocks=blocks)

    @_CallbackMethod
    async def on_chat_model_start(
        self,
        serialized: Mapping[str, Any] | None,
        messages: list[list[Any]],
        *,
        run_id: UUID | None = None,
        blocks: bool = False,
        **kwargs: Any,
    ) -> None:
        """Acquire the slot of a chat, for a weight by model and messages.

        Raises:
            AcquireRejectedError: the request was rejected.

        """
        body = {"messages": [{"role": it.type, "content": it.content} for several in messages for it in several]}
        await self._begin_run(serialized, kwargs, run_id, estimate_tokens(body), blocks=blocks)

    @_CallbackMethod
    async def on_llm_new_token(self, *_: Any, run_id: UUID | None = None, **__: Any) -> None:
        """Leave the slot's scope once the stream is open: what the reader does between two chunks is not the call."""
        self._calls.leave_scope(_make_key(run_id))

    @_CallbackMethod
    async def on_llm_end(self, response: Any, *, run_id: UUID | None = None, **_: Any) -> None:
        """Release the slot, and record the tokens."""
        self._calls.end_call(_make_key(run_id), tokens=_read_tokens(response))

    @_CallbackMethod
    async def on_llm_error(self, error: BaseException, *, run_id: UUID | None = None, **_: Any) -> None:
        """Release the slot of a failed call, which costs nothing."""
        self._calls.end_call(_make_key(run_id), error=error)

    async def _begin_run(
        self,
        serialized: Mapping[str, Any] | None,
        details: Mapping[str, Any],
        run_id: UUID | None,
        tokens: int,
        *,
        blocks: bool,
    ) -> None:
        model = _extract_model(details.get("invocation_params")) or _extract_model(serialized)
        task = Task(weight=compute_weight(MODEL_WEIGHTS, model, tokens), task_type=f"langchain:{model}")
        # The run's manager holds its id as long as the run lasts: LangChain does not report that a run was cancelled.
        if blocks:
            self._calls.begin_call_blocking(_make_key(run_id), self.agent_id, task, owner=run_id)
        else:
            await self._calls.begin_call(_make_key(run_id), self.agent_id, task, owner=run_id)

    @property
    def _handle(self) -> object:
        """The newest slot; None if no call is under way. loco-agent's own tests read it."""
        return self._calls.find_newest()


def _make_key(run_id: UUID | None) -> int | None:
    """Return what identifies a run, without a reference to its id."""
    return None if run_id is None else run_id.int


def _extract_model(known: Mapping[str, Any] | None) -> str:
    """Return the model that a run's parameters or a serialized model name; empty if they name none."""
    if not known:
        return ""
    fields = known.get("kwargs", known)
    name = next((fields[field] for field in _MODEL_FIELDS if isinstance(fields.get(field), str)), None)
    path = known.get("id")
    return name or (str(path[-1]) if path else "")


def _read_tokens(response: Any) -> int:
    """Return the tokens that a result reports; 0 if it reports none."""
    for generation in [it for several in get_field(response, "generations") or () for it in several]:
        usage = get_field(get_field(generation, "message"), "usage_metadata")
        if usage:
            return int(usage.get("total_tokens") or 0)
    usage = (get_field(response, "llm_output") or {}).get("token_usage") or {}
    return int(usage.get("total_tokens") or 0)
