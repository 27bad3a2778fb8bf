"""Threads in which the operations of a remote ledger wait for its server, on behalf of callers on an event loop."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Any

_logger = logging.getLogger("loco_otel")

_MAX_THREADS = 32
"""Operations under way at a time; they share one connection, so more of them do not wait for each other's replies."""


def is_on_event_loop() -> bool:
    """Return whether the caller must not block, as an event loop runs in its thread."""
    return asyncio._get_running_loop() is not None


class LedgerThreads:
    """A pool of threads, started on demand. Thread-safe."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._running: set[Future[Any]] = set()

    def run(self, operation: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Run an operation in another thread, with the caller's context; here, once the interpreter shuts down."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(_MAX_THREADS, "loco-ledger-call")
        try:
            future = self._executor.submit(copy_context().run, operation, *arguments)
        except RuntimeError:
            future = Future()
            future.set_result(operation(*arguments))
            return future
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future

    def start(self, operation: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Run an operation in another thread, for a caller that needs no result; an error is logged."""
        future = self.run(operation, *arguments)
        future.add_done_callback(_log_fault)
        return future

    def run_after(self, earlier: "Future[Any]", operation: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Do what `run` does once another operation has ended, in the same thread, which then need not be woken."""
        future: Future[Any] = Future()
        context = copy_context()

        def run_operation() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = context.run(operation, *arguments)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        def follow(_: "Future[Any]") -> None:
            if is_on_event_loop():  # the other one had ended by now
                self.run(run_operation)
            else:
                run_operation()

        self._running.add(future)
        future.add_done_callback(self._running.discard)
        earlier.add_done_callback(follow)
        return future

    def wait(self, seconds: float) -> None:
        """Wait until the operations that were started before have ended."""
        if self._running:
            wait(tuple(self._running), seconds)


def _log_fault(future: "Future[Any]") -> None:
    error = future.exception()
    if error is not None:
        _logger.error("loco-otel internal error in an operation of the ledger", exc_info=error)
