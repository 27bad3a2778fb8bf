"""Turns: calls of a model that a child process makes. Each holds one slot, from its prompt to the message that ends it.

The retries and the tools of the child are not visible here, so the slot is held throughout. What this process runs for
the child, such as a tool, is part of the turn, with the identity of its caller and its claim on the slot.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from math import inf
from typing import Any, NamedTuple, Protocol

from opentelemetry.context import Context

from loco_otel._core.ticket import READING
from loco_otel._runtime import faults
from loco_otel._runtime.agent_readers import pushed_identities
from loco_otel._runtime.identity import explicit_identities
from loco_otel._telemetry.current_context import attach, detach, get_current
from loco_otel._waiting import ownership
from loco_otel.patching.adapter import Adapter
from loco_otel.patching.call import Call
from loco_otel.patching.call_setup import start_call
from loco_otel.patching.wrappers import acquire_slot_async

_IDLE_SECONDS = 10.0
"""Seconds after which the slot of a turn whose messages nobody reads is lent."""
_VARIABLES: tuple[ContextVar[Any], ...] = (explicit_identities, pushed_identities, ownership.claims_var)


class TurnEnd(NamedTuple):
    """The last message of a turn."""

    answer: Any
    """What the adapter reads the usage of; None if it has none."""
    error: Exception | None
    """Why the turn failed; None if it succeeded."""


class TurnReader(Protocol):
    """Reads the messages of one child process."""

    def belongs_to_turn(self, message: Any) -> bool:
        """Return whether a message is made by a turn, so that one must be under way."""

    def read_end(self, message: Any) -> TurnEnd | None:
        """Return the end of a turn; None if the message is not the last. Called once for each message, in order."""


class Conversation:
    """The turns of one child process, one at a time. For one event loop.

    Args:
        adapter: translates; its requests are those of `begin_turn`.
        client: the object that the adapter describes a request with.
        reader: reads the messages.
        request: that of a turn which the child begins by itself.
        wrapped: the method that makes a turn.

    """

    def __init__(self, adapter: Adapter, client: Any, reader: TurnReader, request: Any, wrapped: Any) -> None:
        self._adapter = adapter
        self._client = client
        self._reader = reader
        self._request = request
        self._wrapped = wrapped
        self._call: Call | None = None
        self._has_turn = False
        self._context: Context | None = None
        self._carried: tuple[Any, ...] | None = None
        self._reader_count = self._served_count = 0

    @property
    def has_turn(self) -> bool:
        """Whether a turn is under way."""
        return self._has_turn

    async def begin_turn(self, request: Any) -> Any:
        """Acquire the slot of a turn; return the request to send. A prompt within a turn becomes a part of it.

        Raises:
            LocoError: the turn was rejected.

        """
        if self._has_turn:
            return request
        self._has_turn = True
        try:
            call = start_call(self._adapter, self._client, request, self._wrapped)
            if call is None or not await acquire_slot_async(call):
                return request
        except BaseException:
            self._has_turn = False
            raise
        try:
            self._open_turn(call)
            return call.prepare_options(request)
        except Exception:
            self._call = None
            call.bypass_after_fault("opening a turn")
            return request

    def _open_turn(self, call: Call) -> None:
        call.enter_sdk_call()
        call.exit_sdk_call()
        call.claim_slot()
        self._context = call.inference_context or get_current()
        self._carried = (explicit_identities.get(), pushed_identities.get(), ownership.list_carried_claims())
        self._call = call
        self._update_idle_time()

    @contextmanager
    def enter_turn(self) -> Iterator[None]:
        """Run a `with` body in the context of the turn under way: its identity, its claim on the slot and its span."""
        if self._call is None or self._carried is None or self._context is None:
            yield
            return
        token = attach(self._context)
        tokens = [variable.set(value) for variable, value in zip(_VARIABLES, self._carried, strict=True)]
        try:
            yield
        finally:
            # In another context, where the garbage collector closes a coroutine, there is nothing to undo.
            with suppress(ValueError):
                for variable, before in zip(reversed(_VARIABLES), reversed(tokens), strict=True):
                    variable.reset(before)
            detach(token)

    async def take_message(self, message: Any) -> None:
        """Record a message that was read. A turn that the child began by itself acquires its slot here.

        Raises:
            LocoError: such a turn was rejected.

        """
        try:
            end = self._reader.read_end(message)
            is_part = self._reader.belongs_to_turn(message)
        except Exception:
            faults.log_fault("reading a message of a child process")
            return
        if end is None and is_part and not self._has_turn:
            await self.begin_turn(self._request)
        call = self._call
        if end is not None:
            self._finish_turn(end)
        elif call is not None and is_part:
            try:
                call.record_first_chunk(call.ticket.touched_at)
                if call.chunk_reader is not None:
                    call.chunk_reader(message, call.meter)
            except Exception:
                faults.log_fault("reading a message of a turn")

    @contextmanager
    def serve_request(self) -> Iterator[None]:
        """Run a request of the child in a `with` body, in the context of the turn, which is blocked meanwhile."""
        with self.enter_turn():
            self._served_count += 1
            self._update_idle_time()
            try:
                yield
            finally:
                self._served_count -= 1
                self._update_idle_time()

    @contextmanager
    def read_message(self) -> Iterator[None]:
        """Wait for the next message in a `with` body, in the context of the turn. There may be several readers."""
        self._reader_count += 1
        self._update_idle_time()
        try:
            with self.enter_turn():
                yield
        finally:
            self._reader_count -= 1
            self._update_idle_time()

    def _update_idle_time(self) -> None:
        call = self._call
        if call is None:
            return
        if self._served_count:
            # A wait of what is run blocks the turn, also while its messages are read.
            call.ticket.idle_after = inf
        elif self._reader_count:
            call.ticket.idle_after = READING
        else:
            # Without a reader the child continues the turn.
            try:
                call.engine.touch_lease(call.ticket)
            except Exception:
                faults.log_fault("noting that a turn has no reader")
            call.ticket.idle_after = _IDLE_SECONDS

    def end_turn(self, error: BaseException | None = None) -> None:
        """End the turn under way, which has no last message. No-op without one."""
        call = self._leave_turn()
        if call is None:
            return
        try:
            if isinstance(error, GeneratorExit):
                call.abandon_call()
            elif error is not None and not call.meter.has_started:
                call.fail_call(error)
            else:
                call.finish_call(error)
        except Exception:
            faults.log_fault("ending a turn")

    def _leave_turn(self) -> Call | None:
        call, self._call, self._has_turn = self._call, None, False
        self._context = self._carried = None
        return call

    def _finish_turn(self, end: TurnEnd) -> None:
        call = self._leave_turn()
        if call is None:
            return
        try:
            if end.answer is not None:
                call.record_answer(end.answer)
            call.finish_call(end.error)
        except Exception:
            faults.log_fault("ending a turn")


async def follow_messages(
    conversation: Conversation, messages: AsyncIterator[Any], *, ends_child: bool
) -> AsyncIterator[Any]:
    """Yield the messages of a child process, and end its turns with them.

    Args:
        conversation: its turns.
        messages: an async generator.
        ends_child: whether the child ends with the generator, however that ends. Else a reader that leaves, or is
            cancelled, does not end the turn.

    """
    error: BaseException | None = None
    try:
        while True:
            with conversation.read_message():
                try:
                    message = await anext(messages)
                except StopAsyncIteration:
                    break
            await conversation.take_message(message)
            yield message
    except BaseException as raised:
        error = raised
        raise
    finally:
        try:
            await messages.aclose()  # type: ignore[attr-defined] # a generator; the child ends before the slot does
        finally:
            if ends_child or error is None or isinstance(error, Exception):
                conversation.end_turn(error)
