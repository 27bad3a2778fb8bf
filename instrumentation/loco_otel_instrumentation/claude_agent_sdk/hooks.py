"""The wrappers around the methods by which a program and a child process `claude` talk.

A conversation belongs to one child process. `query` makes one for each call, a `ClaudeSDKClient` for each connection.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

from loco_otel.patching import NamedArguments
from loco_otel.patching.turns import Conversation, follow_messages
from loco_otel_instrumentation.claude_agent_sdk.adapter import ClaudeAgentAdapter
from loco_otel_instrumentation.claude_agent_sdk.results import ClaudeMessages

_ADAPTER = ClaudeAgentAdapter()
_QUERY_ARGUMENTS = NamedArguments(("prompt", "options", "transport"))
_PROMPT = NamedArguments(("prompt",))

_connecting: ContextVar[Conversation | None] = ContextVar("loco_otel_claude_connecting", default=None)
"""The conversation whose child process is being started here."""
_conversations: WeakKeyDictionary[Any, Conversation] = WeakKeyDictionary()
"""Those of connected clients, and of the SDK's own objects that serve a child process."""


def _make_conversation(client: Any, request: dict[str, Any], wrapped: Any) -> Conversation:
    return Conversation(_ADAPTER, client, ClaudeMessages(), {**request, "prompt": None}, wrapped)


def wrap_query(
    wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> AsyncIterator[Any]:
    """Schedule the turns of `query`. The first acquires its slot before the child process starts."""
    request = _QUERY_ARGUMENTS.read_request(args, kwargs)
    conversation = _make_conversation(None, request, wrapped)

    async def start() -> AsyncIterator[Any]:
        sent = await conversation.begin_turn(request)
        given, named = _QUERY_ARGUMENTS.replace_request(sent, args, kwargs)
        messages = follow_messages(conversation, _start_within(conversation, wrapped(*given, **named)), ends_child=True)
        try:
            async for message in messages:
                yield message
        finally:
            await messages.aclose()  # type: ignore[attr-defined] # a generator

    return start()


async def _start_within(conversation: Conversation, messages: Any) -> AsyncIterator[Any]:
    """Yield messages of a generator whose first step starts the child process."""
    token = _connecting.set(conversation)
    try:
        try:
            message = await anext(messages)
        finally:
            _connecting.reset(token)
        while True:
            yield message
            message = await anext(messages)
    except StopAsyncIteration:
        pass
    finally:
        await messages.aclose()


async def wrap_connect(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Begin the conversation of a client, with a turn if it is given a prompt."""
    prompt = _PROMPT.read_request(args, kwargs).get("prompt")
    request = {"prompt": prompt, "options": client.options}
    conversation = _make_conversation(client, request, wrapped)
    if prompt is not None:
        await conversation.begin_turn(request)
    _conversations[client] = conversation
    token = _connecting.set(conversation)
    try:
        with conversation.enter_turn():
            return await wrapped(*args, **kwargs)
    except BaseException as error:
        conversation.end_turn(error)
        raise
    finally:
        _connecting.reset(token)


async def wrap_client_query(
    wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Acquire the slot of a turn before its prompt is sent."""
    conversation = _conversations.get(client)
    if conversation is None:
        return await wrapped(*args, **kwargs)
    prompt = _PROMPT.read_request(args, kwargs).get("prompt")
    is_first = not conversation.has_turn
    await conversation.begin_turn({"prompt": prompt, "options": client.options})
    try:
        return await wrapped(*args, **kwargs)
    except BaseException as error:
        if is_first:
            conversation.end_turn(error)
        raise


def wrap_receive(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """End a turn with its last message. `receive_response` passes here too."""
    messages = wrapped(*args, **kwargs)
    conversation = _conversations.get(client)
    return messages if conversation is None else follow_messages(conversation, messages, ends_child=False)


async def wrap_disconnect(
    wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """End the turn under way with the child process."""
    try:
        return await wrapped(*args, **kwargs)
    finally:
        conversation = _conversations.pop(client, None)
        # A connection that fails is closed by the SDK, and `wrap_connect` ends its turn with the error.
        if conversation is not None and conversation is not _connecting.get():
            conversation.end_turn()


async def wrap_start(wrapped: Callable[..., Any], query: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Note whose child process this object serves."""
    conversation = _connecting.get()
    if conversation is not None:
        _conversations[query] = conversation
    return await wrapped(*args, **kwargs)


async def wrap_control_request(
    wrapped: Callable[..., Any], query: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run a tool, a hook or a question for permission in the context of the turn under way."""
    conversation = _conversations.get(query)
    with nullcontext() if conversation is None else conversation.serve_request():
        return await wrapped(*args, **kwargs)
