"""Wrappers around the methods of an agent framework that run an agent: calls in them queue under the agent's name.

There is one wrapper for each shape of a method. Each pushes the identity while the framework's code runs, and removes
it before the caller's code runs again: a generator and a context manager are named only within their steps. A fault
in a hook costs only the name.
"""

import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias

from loco_otel._runtime import faults, process
from loco_otel._runtime.agent_readers import (
    PartialIdentity,
    pop_identity,
    push_identity,
    read_frameworks,
    record_reader_fault,
)
from loco_otel.events import RunEnded
from loco_otel.patching.target import Target
from loco_otel.patching.wrappers import Wrapper

ReadIdentity: TypeAlias = Callable[[Any, tuple[Any, ...], dict[str, Any]], PartialIdentity | None]
"""Returns the identity that a call of a method stands for, from its instance and arguments. It may raise anything."""


def create_run_id() -> str:
    """Return the id of a new run, for a framework that has none of its own."""
    return uuid.uuid4().hex


class FrameworkHooks(NamedTuple):
    """The hooks in a framework whose agents are all pushed. One that a version lacks costs only its own calls."""

    targets: tuple[Target, ...]

    def list_targets(self) -> tuple[Target, ...]:
        """Return the methods to wrap."""
        return self.targets


class IdentityHooks:
    """Makes the wrappers of one framework.

    Args:
        framework: its name, for the log and the doctor.

    """

    def __init__(self, framework: str) -> None:
        self._framework = framework

    def wrap_call(self, read: ReadIdentity, *, is_run: bool = False) -> Wrapper:
        """Name the calls within a sync method; with `is_run` its end is that of the run that it reads."""

        def wrapper(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            with self._push_run(self.try_read(read, instance, args, kwargs), is_run=is_run):
                return wrapped(*args, **kwargs)

        return wrapper

    def wrap_async_call(self, read: ReadIdentity, *, is_run: bool = False) -> Wrapper:
        """Name the calls within a coroutine; `is_run` as for `wrap_call`."""

        async def wrapper(
            wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> Any:
            with self._push_run(self.try_read(read, instance, args, kwargs), is_run=is_run):
                return await wrapped(*args, **kwargs)

        return wrapper

    def wrap_async_generator(self, read: ReadIdentity, *, is_run: bool = False) -> Wrapper:
        """Name the calls within each step of an async generator; `is_run` as for `wrap_call`."""
        return self._wrap_steps(_NamedGenerator, read, is_run=is_run)

    def wrap_generator(self, read: ReadIdentity, *, is_run: bool = False) -> Wrapper:
        """Name the calls within each step of a sync generator; `is_run` as for `wrap_call`."""
        return self._wrap_steps(_NamedSyncGenerator, read, is_run=is_run)

    def _wrap_steps(
        self, proxy: "type[_NamedGenerator | _NamedSyncGenerator]", read: ReadIdentity, *, is_run: bool
    ) -> Wrapper:
        def wrapper(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            identity = self.try_read(read, instance, args, kwargs)
            end = self.find_run_end(identity) if is_run else None
            generator = wrapped(*args, **kwargs)
            if identity is None:
                return generator
            return proxy(generator, identity, lambda: self.push(identity), end)

        return wrapper

    def wrap_context_manager(self, read: ReadIdentity) -> Wrapper:
        """Name the calls within the body of a context manager, which must be code of the framework."""

        @contextmanager
        def wrapper(
            wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> Iterator[Any]:
            with wrapped(*args, **kwargs) as entered, self.push(self.try_read(read, instance, args, kwargs)):
                yield entered

        return wrapper

    def wrap_async_context_manager(self, read: ReadIdentity) -> Wrapper:
        """Name the calls within the entry and the exit of an async context manager, and none of its body."""

        def wrapper(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            identity = self.try_read(read, instance, args, kwargs)
            manager = wrapped(*args, **kwargs)
            return manager if identity is None else _NamedManager(manager, lambda: self.push(identity))

        return wrapper

    def try_read(
        self, read: ReadIdentity, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> PartialIdentity | None:
        """Return the identity of a call; None, and a record of the fault, if it cannot be read."""
        try:
            return read(instance, args, kwargs)
        except Exception as error:
            record_reader_fault(self._framework, error)
            return None

    def find_run_end(self, identity: PartialIdentity | None) -> Callable[[], None] | None:
        """Return what reports the end of a run that begins here; None if no run begins, or if it is within another."""
        run = None if identity is None else identity.run
        if run is None or read_frameworks().run is not None:
            return None
        return lambda: report_run_end(run)

    @contextmanager
    def _push_run(self, identity: PartialIdentity | None, *, is_run: bool) -> Iterator[None]:
        """Push an identity for the length of a `with` body, and with `is_run` report the end of its run after it."""
        end = self.find_run_end(identity) if is_run else None
        try:
            with self.push(identity):
                yield
        finally:
            if end is not None:
                end()

    @contextmanager
    def push(self, identity: PartialIdentity | None) -> Iterator[None]:
        """Push an identity for the length of a `with` body; no-op for None. Our part never raises."""
        if identity is None:
            yield
            return
        key = object()
        try:
            push_identity(key, identity)
        except Exception as error:
            record_reader_fault(self._framework, error)
        try:
            yield
        finally:
            pop_identity(key)


_Push: TypeAlias = Callable[[], AbstractContextManager[None]]


def report_run_end(run: str) -> None:
    """Emit the end of a run, if there is a scheduler. Never raises."""
    runtime = process.get_existing_runtime()
    if runtime is not None and runtime.engine.observed:
        try:
            runtime.engine.emit(lambda at: RunEnded(at, run))
        except Exception:
            faults.log_fault("reporting the end of a run", effect="it counts as active until it has been silent")


_End: TypeAlias = Callable[[], None] | None
"""Reports the end of a run, if the generator is one."""


class _Steps:
    """A generator of the framework, and what surrounds each of its steps."""

    def __init__(self, generator: Any, identity: PartialIdentity, push: _Push, end: _End) -> None:
        self.identity: PartialIdentity | None = identity._replace(run=read_frameworks().run or identity.run)
        """What its steps are named, in the outermost run; None after its end."""
        self._generator = generator
        self._push = push
        self._end = end

    def _report_end(self) -> None:
        self.identity = None
        end, self._end = self._end, None
        if end is not None:
            end()


class _NamedGenerator(_Steps, AsyncGenerator[Any, Any]):
    """An async generator whose steps are named. If it is dropped, the event loop closes the inner one."""

    async def __anext__(self) -> Any:
        return await self._run_step(self._generator.__anext__)

    async def asend(self, value: Any) -> Any:
        return await self._run_step(partial(self._generator.asend, value))

    async def athrow(self, *error: Any) -> Any:
        return await self._run_step(partial(self._generator.athrow, *error))

    async def aclose(self) -> None:
        try:
            with self._push():
                await self._generator.aclose()
        finally:
            self._report_end()

    async def _run_step(self, step: Callable[[], Awaitable[Any]]) -> Any:
        try:
            with self._push():
                return await step()
        except BaseException:
            self._report_end()
            raise


class _NamedSyncGenerator(_Steps, Generator[Any, Any, Any]):
    """A sync generator whose steps are named. If it is dropped, so is the inner one, which is then closed."""

    def __next__(self) -> Any:
        return self._run_step(self._generator.__next__)

    def send(self, value: Any) -> Any:
        """Send a value into the inner generator."""
        return self._run_step(partial(self._generator.send, value))

    def throw(self, *error: Any) -> Any:
        """Throw an error into the inner generator."""
        return self._run_step(partial(self._generator.throw, *error))

    def close(self) -> None:
        """Close the inner generator."""
        try:
            with self._push():
                self._generator.close()
        finally:
            self._report_end()

    def _run_step(self, step: Callable[[], Any]) -> Any:
        try:
            with self._push():
                return step()
        except BaseException:
            self._report_end()
            raise


class _NamedManager(AbstractAsyncContextManager[Any]):
    """An async context manager whose entry and exit are named."""

    def __init__(self, manager: Any, push: _Push) -> None:
        self._manager = manager
        self._push = push

    async def __aenter__(self) -> Any:
        with self._push():
            return await self._manager.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        with self._push():
            return await self._manager.__aexit__(kind, error, trace)
