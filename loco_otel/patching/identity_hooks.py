"""Wrappers around the methods of an agent framework that run an agent: calls in them queue under the agent's name.

There is one wrapper for each shape of a method. Each pushes the identity while the framework's code runs, and removes
it before the caller's code runs again: a generator and a context manager are named only within their steps. A fault
in a hook costs only the name.
"""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias

from loco_otel._runtime.agent_readers import PartialIdentity, pop_identity, push_identity, record_reader_fault
from loco_otel.patching.target import Target
from loco_otel.patching.wrappers import Wrapper

ReadIdentity: TypeAlias = Callable[[Any, tuple[Any, ...], dict[str, Any]], PartialIdentity | None]
"""Returns the identity that a call of a method stands for, from its instance and arguments. It may raise anything."""


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

    def wrap_call(self, read: ReadIdentity) -> Wrapper:
        """Name the calls within a sync method."""

        def wrapper(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            with self.push(self.try_read(read, instance, args, kwargs)):
                return wrapped(*args, **kwargs)

        return wrapper

    def wrap_async_call(self, read: ReadIdentity) -> Wrapper:
        """Name the calls within a coroutine."""

        async def wrapper(
            wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> Any:
            with self.push(self.try_read(read, instance, args, kwargs)):
                return await wrapped(*args, **kwargs)

        return wrapper

    def wrap_async_generator(self, read: ReadIdentity) -> Wrapper:
        """Name the calls within each step of an async generator."""

        def wrapper(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            identity = self.try_read(read, instance, args, kwargs)
            generator = wrapped(*args, **kwargs)
            return generator if identity is None else _NamedGenerator(generator, lambda: self.push(identity))

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


class _NamedGenerator(AsyncGenerator[Any, Any]):
    """An async generator whose steps are named. If it is dropped, the event loop closes the inner one."""

    def __init__(self, generator: Any, push: _Push) -> None:
        self._generator = generator
        self._push = push

    async def __anext__(self) -> Any:
        with self._push():
            return await self._generator.__anext__()

    async def asend(self, value: Any) -> Any:
        with self._push():
            return await self._generator.asend(value)

    async def athrow(self, *error: Any) -> Any:
        with self._push():
            return await self._generator.athrow(*error)

    async def aclose(self) -> None:
        with self._push():
            await self._generator.aclose()


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
