"""The adapter for AutoGen: messages that a runtime delivers, each under a slot until its recipient has answered."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from uuid import uuid4
from weakref import WeakSet

from loco_otel._core.ticket import Ticket
from loco_otel._waiting import ownership
from loco_otel.compat.adapters.frameworks import import_framework
from loco_otel.compat.adapters.model_weights import find_tier
from loco_otel.compat.async_scheduler import AsyncLOCOScheduler
from loco_otel.compat.task import Task

MODEL_WEIGHTS = {"gpt-4o": 3.0, "gpt-4o-mini": 1.0, "gpt-4": 3.0, "gpt-35-turbo": 1.0}
"""The weight of a short message by the recipient's model, in the names of Azure OpenAI."""

_CHARACTERS = 4000
"""Characters of a message from which the weight grows: 1000 tokens."""


def estimate_weight(model: str | None = None, message_length: int = 0) -> float:
    """Return the weight of a message.

    Args:
        model: the recipient's model.
        message_length: in characters; the weight grows with those above 4000.

    Example:
        >>> estimate_weight('gpt-4o', 20_000)
        15.0

    """
    return find_tier(MODEL_WEIGHTS, model) * max(1.0, message_length / _CHARACTERS)


class AutoGenAdapter:
    """Schedules messages between the agents of a runtime of `autogen_core`. Several may be under way at once.

    The messages that a recipient sends on while it handles one run under the same slot.

    Args:
        scheduler: the scheduler of the slots.
        default_model: the model of recipients for which none is named.
        runtime: the runtime that delivers, which must be started. Required to send.

    """

    def __init__(self, scheduler: AsyncLOCOScheduler, default_model: str = "gpt-4o", runtime: Any = None) -> None:
        self._scheduler = scheduler
        self._default_model = default_model
        self._runtime = runtime
        if runtime is not None:
            _carry_slots(runtime)

    async def send_message(
        self, sender: str, recipient: str, content: Any, *, model: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Deliver a message under a slot of its recipient, and return its answer.

        Args:
            sender: the sending agent, `type` or `type/key`; not sent along if the runtime does not know the type.
            recipient: the receiving agent, `type` or `type/key`, which is the scheduler's agent by its type.
            content: the message, of any type that the recipient handles.
            model: the recipient's model.
            kwargs: further arguments of the runtime's `send_message`.

        Returns:
            `sender`, `recipient`, `model`, `delivered`, and the recipient's `response`.

        Raises:
            RuntimeError: the adapter has no runtime.
            ImportError: autogen-core is not installed.
            AcquireRejectedError: the request was rejected, and nothing was sent.

        """
        runtime = self._require_runtime()
        core = import_framework("autogen_core", "autogen-core", "AutoGenAdapter")
        used = model or self._default_model
        lease = self._scheduler.hold(recipient.partition("/")[0], self._make_task(used, content))
        async with lease:
            response = await runtime.send_message(
                content, _make_agent_id(core, recipient), sender=await _find_sender(runtime, core, sender), **kwargs
            )
        return {"sender": sender, "recipient": recipient, "delivered": True, "model": used, "response": response}

    async def publish_message(
        self, sender: str, topic: str, content: Any, subscribers: Iterable[str] | None = None, **kwargs: Any
    ) -> list[dict[str, Any]]:
        """Deliver a message to several agents.

        Args:
            sender: the sending agent.
            topic: the topic, `type` or `type/source`.
            content: the message.
            subscribers: the agents that receive it, each under a slot of its own. None publishes to the topic under
                one slot: the runtime delivers to its subscribers later, and reports no answers.
            kwargs: further arguments of the runtime's method.

        Returns:
            One result for each subscriber, see `send_message`; for a topic one for all.

        Raises:
            RuntimeError: the adapter has no runtime.
            ImportError: autogen-core is not installed.
            AcquireRejectedError: a request was rejected.

        """
        if subscribers is not None:
            return list(
                await asyncio.gather(*[self.send_message(sender, name, content, **kwargs) for name in subscribers])
            )
        runtime = self._require_runtime()
        core = import_framework("autogen_core", "autogen-core", "AutoGenAdapter")
        kind, _, source = topic.partition("/")
        async with self._scheduler.hold(kind, self._make_task(self._default_model, content)):
            await runtime.publish_message(
                content,
                core.TopicId(kind, source or "default"),
                sender=await _find_sender(runtime, core, sender),
                **kwargs,
            )
        return [{"sender": sender, "recipient": topic, "delivered": True, "model": self._default_model}]

    def _make_task(self, model: str, content: Any) -> Task:
        length = len(content) if isinstance(content, str) else len(str(getattr(content, "content", content)))
        return Task(weight=estimate_weight(model, length), task_type=f"autogen:{model}")

    def _require_runtime(self) -> Any:
        if self._runtime is None:
            raise RuntimeError(
                "AutoGenAdapter delivers by a runtime of autogen-core, and has none: pass runtime=, such as a started "
                "SingleThreadedAgentRuntime whose agent types are registered"
            )
        return self._runtime


class _SlotCarrier:
    """Carries the slots of senders through a runtime, which handles each message in a context of its own.

    Args:
        runtime: its `send_message` is replaced on the instance, and `on_message` on each agent that receives one.

    """

    def __init__(self, runtime: Any) -> None:
        self._send = runtime.send_message
        self._find_agent = runtime.try_get_underlying_agent_instance
        self._tickets: dict[str, Ticket] = {}
        self._agents: WeakSet[Any] = WeakSet()

    async def send_message(self, message: Any, recipient: Any, **kwargs: Any) -> Any:
        """Send a message whose handling runs under the sender's slot."""
        ticket = ownership.current_ticket()
        if ticket is None:
            return await self._send(message, recipient, **kwargs)
        message_id = kwargs.pop("message_id", None) or str(uuid4())
        with suppress(LookupError):  # the runtime reports it
            self._wrap_agent(await self._find_agent(recipient))
        self._tickets[message_id] = ticket
        try:
            return await self._send(message, recipient, message_id=message_id, **kwargs)
        finally:
            del self._tickets[message_id]

    def _wrap_agent(self, agent: Any) -> None:
        if agent in self._agents:
            return
        handle = agent.on_message

        async def on_message(message: Any, ctx: Any) -> Any:
            ticket = self._tickets.get(ctx.message_id)
            if ticket is None:
                return await handle(message, ctx)
            outer = ownership.enter_call(ticket)
            try:
                return await handle(message, ctx)
            finally:
                ownership.exit_call(ticket, outer)

        agent.on_message = on_message
        self._agents.add(agent)


def _carry_slots(runtime: Any) -> None:
    """Let a runtime carry slots, once however many adapters it has."""
    if not isinstance(getattr(runtime.send_message, "__self__", None), _SlotCarrier):
        runtime.send_message = _SlotCarrier(runtime).send_message


def _make_agent_id(core: Any, name: str) -> Any:
    kind, _, key = name.partition("/")
    return core.AgentId(kind, key or "default")


async def _find_sender(runtime: Any, core: Any, name: str) -> Any:
    """Return the id of a sending agent; None if the runtime has no agent of its type, and so could not name it."""
    agent_id = _make_agent_id(core, name)
    try:
        await runtime.try_get_underlying_agent_instance(agent_id)
    except LookupError:
        return None
    return agent_id
