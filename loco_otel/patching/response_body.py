"""The body of an answer: its reader, and its end.

A slot is given back when the body has ended: read out, closed, broken off or dropped. That is seen at the HTTP
response, whose `close` every way of ending calls, or which is dropped; the stream's iterator is followed for usage
alone. Everything is put on the instance, so the types that the SDK returns stay what they are.
"""

import asyncio
import inspect
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from copy import copy
from typing import Any

from loco_otel._core.ticket import READING
from loco_otel._runtime import faults, process
from loco_otel._telemetry.current_context import attach, detach
from loco_otel.errors import StoppedError
from loco_otel.patching.adapter import as_mapping
from loco_otel.patching.followed_call import FollowedCall
from loco_otel.patching.open_connection import OpenConnection, open_response_connection
from loco_otel.patching.reference_cycles import break_iterator_cycle, break_response_cycle

_READING_CHUNK = "reading a chunk"

_UNREAD_IDLE_SECONDS, _PAUSED_IDLE_SECONDS = 1.0, 10.0
"""Seconds after which a slot lies idle whose stream nobody has begun to read, or whose reader does something else."""
_UNOBSERVED_IDLE_SECONDS = 1e9
"""In place of those where reading is not seen."""


def follow_answer(call: FollowedCall, answer: Any) -> None:
    """End a call whose answer is complete, or tie its end to the end of the body that the answer still reads."""
    # Of pydantic, as all parsed answers are: these have read their body, and are slow to raise for a missing attribute.
    response = None if "__pydantic_validator__" in type(answer).__dict__ else _find_response(answer)
    if response is None:
        call.record_answer(answer)
        call.finish_call()
        return
    is_stream = hasattr(answer, "_iterator")
    if response.is_closed and not (is_stream or call.extended_request):
        call.record_raw_body(response)
        call.finish_call()
    else:
        # A stream may be closed too: where its bytes came from a cache or a mock, and are in memory.
        body = ResponseBody(call)
        body.install_close_hooks(response)
        if is_stream:
            body.wrap_stream(answer)
        elif hasattr(answer, "parse"):
            body.wrap_parse(answer)
        call.claim_slot()


def _find_response(answer: Any) -> Any:
    """Return the HTTP response that an SDK's answer reads from, or is; None for an answer that is parsed."""
    known = as_mapping(answer)
    for response in (known.get("http_response"), known.get("response"), answer):
        # Asked of the class: pydantic models, which answers are, are slow to raise for a missing attribute.
        if hasattr(type(response), "num_bytes_downloaded") and hasattr(response, "is_closed"):
            return response
    return None


class ResponseBody:
    """An open body. Referred to by what hangs on the response and the stream, and referring to neither."""

    __slots__ = (
        *("__weakref__", "_call", "_connection", "_is_closed", "_strip_chunk", "_reader_task", "abort_error"),
        *("inference_context", "meter", "is_fast_path", "chunk_reader", "reader_thread", "ticket", "touch"),
    )

    def __init__(self, call: FollowedCall) -> None:
        self._call = call
        self._strip_chunk = None if call.extended_request is None else call.extended_request.strip_chunk
        self._is_closed = False
        self._reader_task = _get_task_id()
        # Bound once, as all this is asked for at each chunk.
        self.ticket = call.ticket
        self.meter = call.meter
        self.touch = call.engine.touch_lease
        self.chunk_reader = call.chunk_reader
        self.inference_context = call.inference_context
        """To be current while a chunk is read."""
        self.is_fast_path = False
        """Whether the next chunk needs only to be read: not the first, nor one that may be concealed."""
        self.ticket.idle_after = _UNOBSERVED_IDLE_SECONDS
        self.reader_thread = threading.get_ident()
        """The thread that reads the chunks."""
        self.abort_error: Exception | None = None
        """What its reader raises, once it was aborted."""
        self._connection: OpenConnection | None = None
        """What an abort closes; None if only the next chunk can end it."""
        self.ticket.body = weakref.ref(self)
        runtime = process.get_existing_runtime()
        if runtime is not None and runtime.governor.has_stops:  # perhaps while the answer was awaited
            self.abort_error = runtime.governor.find_abort(self.ticket)

    def install_close_hooks(self, response: Any) -> None:
        """End with the response."""
        weak = weakref.ref(response)
        close, aclose = _bind_weakly(response, "close"), _bind_weakly(response, "aclose")

        known = vars(response)
        before = {name: known.get(name) for name in ("close", "aclose")}

        def closing() -> None:
            try:
                close()
            finally:
                self.handle_close(weak())
                self._remove_close_hooks(weak(), before)

        async def aclosing() -> None:
            try:
                await aclose()
            finally:
                self.handle_close(weak())
                self._remove_close_hooks(weak(), before)

        known |= {"close": closing, "aclose": aclosing}
        self.set_connection(open_response_connection(response))
        break_response_cycle(response)

    def set_connection(self, connection: OpenConnection) -> None:
        """Set what an abort closes, and close it if that has happened already."""
        self._connection = connection
        if self.abort_error is not None:
            self.abort(self.abort_error)

    def _remove_close_hooks(self, response: Any, before: Mapping[str, Any]) -> None:
        """Leave nothing of ours on a response that has ended: a program may keep it, and pickle it."""
        if response is None or not self.ticket.state.is_ended:
            return
        known = vars(response)
        for name, found in before.items():
            if getattr(known.get(name), "__module__", None) == __name__:
                if found is None:
                    del known[name]
                else:
                    known[name] = found

    def wrap_stream(self, stream: Any) -> None:
        """See each chunk that the stream yields."""
        iterator = stream._iterator
        if isinstance(iterator, _FollowedStream | AsyncFollowedStream):
            return
        self.mark_unread()
        if type(stream).__module__.partition(".")[0] == self._call.sdk:  # else it may keep more on itself
            iterator = break_iterator_cycle(stream, iterator)
        stream._iterator = (
            AsyncFollowedStream(iterator, self) if hasattr(iterator, "__anext__") else _FollowedStream(iterator, self)
        )

    def mark_unread(self) -> None:
        """Note that its reading will be seen, and has not begun."""
        self.touch(self.ticket)
        self.ticket.idle_after = _UNREAD_IDLE_SECONDS

    def mark_unobserved(self) -> None:
        """Note that its reading has begun, and will not be seen."""
        self.ticket.idle_after = _UNOBSERVED_IDLE_SECONDS

    def wrap_parse(self, answer: Any) -> None:
        """See what a raw answer is parsed into: a stream, or the whole."""
        # The copy's: one that holds the answer would make a cycle of it, and one that does not would lose it in
        # `client.with_raw_response.create(...).parse()`. What was parsed before is remembered by both.
        parse = copy(answer).parse

        if inspect.iscoroutinefunction(answer.parse):

            async def aparsing(*args: Any, **kwargs: Any) -> Any:
                self.ticket.idle_after = READING
                try:
                    parsed = await parse(*args, **kwargs)
                except BaseException as error:
                    self._handle_parsed(None, error)
                    raise
                self._handle_parsed(parsed, None)
                return parsed

            answer.parse = aparsing
        else:

            def parsing(*args: Any, **kwargs: Any) -> Any:
                self.ticket.idle_after = READING
                try:
                    parsed = parse(*args, **kwargs)
                except BaseException as error:
                    self._handle_parsed(None, error)
                    raise
                self._handle_parsed(parsed, None)
                return parsed

            answer.parse = parsing

    def _handle_parsed(self, parsed: Any, error: BaseException | None) -> None:
        self.ticket.idle_after = _UNOBSERVED_IDLE_SECONDS
        if hasattr(parsed, "_iterator"):
            self.wrap_stream(parsed)
        elif self._is_closed:
            # Reading the whole has closed it, and only now its content is complete.
            self._call.record_answer(parsed)
            self.end_body(error)

    def begin_chunk(self) -> None:
        """Record that a chunk is being read, and its reader."""
        self.ticket.idle_after = READING
        # Readers are distinguished by thread, and by task if there is one.
        task = None if asyncio._get_running_loop() is None else id(asyncio.current_task())
        if task != self._reader_task or threading.get_ident() != self.reader_thread:
            self._reader_task, self.reader_thread = task, threading.get_ident()
            try:
                self._call.transfer_claim()
            except Exception:
                faults.log_fault("noting who reads a body")

    def record_chunk(self, chunk: Any) -> bool:
        """Note a chunk; True where it is none of the program's."""
        if self.abort_error is not None:
            self.close_aborted()
            raise self.abort_error
        ticket = self.ticket
        ticket.idle_after = _PAUSED_IDLE_SECONDS
        concealed = False
        try:
            self.touch(ticket)
            if not self.is_fast_path:
                self._call.record_first_chunk(ticket.touched_at)
                self.is_fast_path = self._strip_chunk is None and not self._is_closed
            if self.chunk_reader is not None:
                self.chunk_reader(chunk, self.meter)
        except Exception:
            faults.log_fault(_READING_CHUNK)
        try:
            if self._strip_chunk is not None:
                concealed = self._strip_chunk(chunk)
            if self._is_closed:
                self._call.finish_call()
        except Exception:
            faults.log_fault("noting a chunk")
        return concealed

    def end_body(self, error: BaseException | None) -> None:
        """End the call, as its body was read to its end or failed with an error."""
        self.ticket.idle_after = _UNOBSERVED_IDLE_SECONDS
        try:
            self._finish_or_abandon(error)
        except Exception:
            faults.log_fault("noting the end of a body")

    def abort(self, error: Exception) -> None:
        """Close the body: its reader raises the error, now or at its next chunk. May be called in any thread."""
        self.abort_error = error
        self.is_fast_path = False  # `record_chunk` raises it
        if self._connection is not None:
            self._connection.close(is_reading=self.is_reading)
        if not self.is_reading:
            self.end_body(error)

    def close_aborted(self) -> None:
        """Close the connection in its reader, at a chunk that came after an abort: perhaps that could not close it."""
        if self._connection is not None:
            self._connection.close(is_reading=False)

    def abandon(self) -> None:
        """End the call as if the program had dropped the body. May be called in any thread."""
        self._call.abandon_call()

    def _finish_or_abandon(self, error: BaseException | None) -> None:
        if isinstance(error, GeneratorExit):
            # The task was dropped: this may be the garbage collector, in the midst of anything.
            self._call.abandon_call()
        else:
            self._call.finish_call(error)

    def raise_if_aborted(self, error: BaseException | None) -> None:
        """Raise the error of an abort in place of one that closing the connection has caused."""
        if self.abort_error is not None and not isinstance(error, GeneratorExit | StoppedError):
            raise self.abort_error from error

    @property
    def is_reading(self) -> bool:
        """Whether a chunk is being read just now."""
        return self.ticket.idle_after == READING

    def handle_close(self, response: Any) -> None:
        """Note that the response is closed."""
        if self.is_reading:
            # The stream closes it while it ends; whether with an error is known once it has ended.
            self._is_closed = True
            self.is_fast_path = False
            return
        error = sys.exception()
        try:
            if response is not None:
                self._call.record_raw_body(response)
            # Unless it was dropped or aborted: what goes wrong in the program's own loop is no error of the call.
            self._finish_or_abandon(error if isinstance(error, GeneratorExit) else self.abort_error)
        except Exception:
            faults.log_fault("noting the end of a body")


class _FollowedStream:
    """The iterator of a sync stream, which observes what it yields."""

    def __init__(self, inner: Iterator[Any], body: ResponseBody) -> None:
        self._inner = inner
        self._chunks = iterate_chunks(inner, body)

    def __iter__(self) -> Iterator[Any]:
        # The SDK's own loop over a generator is quicker than over an object.
        return self._chunks

    def __next__(self) -> Any:
        return next(self._chunks)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def iterate_chunks(inner: Iterator[Any], body: ResponseBody) -> Iterator[Any]:  # noqa: C901 - the hot path, spelled out
    """Yield the chunks of a stream. For the usual chunk it repeats `begin_chunk` and `record_chunk`, to save calls."""
    body.begin_chunk()
    context, touch, read, ticket, meter = body.inference_context, body.touch, body.chunk_reader, body.ticket, body.meter
    token = None if context is None else attach(context)
    try:
        for chunk in inner:
            if token is not None:
                detach(token)
                token = None  # it keeps alive the context in which the chunk was read, and the claim in that
            if body.is_fast_path:
                ticket.idle_after = _PAUSED_IDLE_SECONDS
                try:
                    touch(ticket)
                    if read is not None:
                        read(chunk, meter)
                except Exception:
                    faults.log_fault(_READING_CHUNK)
                yield chunk
            elif not body.record_chunk(chunk):
                yield chunk
            ticket.idle_after = READING
            if threading.get_ident() != body.reader_thread or asyncio._get_running_loop() is not None:
                body.begin_chunk()
            token = None if context is None else attach(context)
    except BaseException as error:
        if body.is_reading:  # else it is dropped or closed, between two chunks
            if token is not None:
                detach(token)
            body.end_body(body.abort_error or error)
        body.raise_if_aborted(error)
        raise
    if token is not None:
        detach(token)
    body.end_body(body.abort_error)
    body.raise_if_aborted(None)


class AsyncFollowedStream:
    """The iterator of an async stream, which observes what it yields."""

    def __init__(self, inner: AsyncIterator[Any], body: ResponseBody) -> None:
        self._inner = inner
        self._body = body

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:  # noqa: C901 - the hot path, spelled out
        """Return the next chunk. For the usual one it repeats `ResponseBody.record_chunk`, to save calls."""
        body = self._body
        while True:
            body.begin_chunk()
            context = body.inference_context
            token = None if context is None else attach(context)
            try:
                chunk = await self._inner.__anext__()
            except StopAsyncIteration:
                if token is not None:
                    detach(token)
                body.end_body(body.abort_error)
                body.raise_if_aborted(None)
                raise
            except BaseException as error:
                if token is not None and not isinstance(error, GeneratorExit):
                    # A coroutine that is dropped is closed in any context: there is nothing to detach in that one.
                    detach(token)
                body.end_body(body.abort_error or error)
                body.raise_if_aborted(error)
                raise
            if token is not None:
                detach(token)
            if body.is_fast_path:
                ticket = body.ticket
                ticket.idle_after = _PAUSED_IDLE_SECONDS
                try:
                    body.touch(ticket)
                    if body.chunk_reader is not None:
                        body.chunk_reader(chunk, body.meter)
                except Exception:
                    faults.log_fault(_READING_CHUNK)
                return chunk
            if body.abort_error is not None:
                body.close_aborted()
                body.end_body(body.abort_error)
                raise body.abort_error
            if not body.record_chunk(chunk):
                return chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _get_task_id() -> int | None:
    """Name the task that runs here, if any."""
    return None if asyncio._get_running_loop() is None else id(asyncio.current_task())


def _bind_weakly(response: Any, name: str) -> Callable[[], Any]:
    """Return a method to call through, without keeping its response alive; or what somebody put in its place."""
    replaced = vars(response).get(name)
    if replaced is not None:
        return replaced  # type: ignore[no-any-return]
    weak = weakref.WeakMethod(getattr(response, name))
    stream = getattr(response, "stream", None)

    def method() -> Any:
        bound = weak()
        # The garbage collector forgets weak references to a cycle before it closes the generators in it, and they
        # close the response that they read from; then this does the essence of it.
        return getattr(stream, name)() if bound is None else bound()

    return method
