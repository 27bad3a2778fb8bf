"""Puts wrappers on an SDK and takes them off again."""

import inspect
import logging
import sys
from abc import abstractmethod
from collections.abc import Collection
from typing import Any

import wrapt
from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined] # it opts out of type checking
    BaseInstrumentor,
)

from loco_otel import _runtime
from loco_otel.errors import ConfigurationError
from loco_otel.patching.calls import Wrapper
from loco_otel.patching.target import Target
from loco_otel.patching.versions import UNKNOWN, installed_version, takes

_logger = logging.getLogger("loco_otel")


class LocoInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Schedules one SDK's calls. Each SDK's folder has a subclass.

    Instances are one per class, as OpenTelemetry makes them, so the state is on the class.
    """

    sdk: str
    """The SDK's import name, which is also its distribution's."""
    requires: str
    """The versions that can be patched, as a requirement."""

    _active = False
    _hooked = False
    _wrapped: list[tuple[Any, str, Any]]

    @abstractmethod
    def targets(self) -> tuple[Target, ...]:
        """Return what to wrap, all in one module."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the SDK, and the versions that can be patched."""
        return (self.requires,)

    @classmethod
    def patched(cls) -> tuple[str, ...]:
        """Name the methods that are wrapped now: none before the SDK is imported, nor those that somebody put back."""
        return tuple(
            f"{owner.__module__}.{owner.__name__}.{name}"
            for owner, name, wrapper in cls._wrapped
            if _is_in_place(owner, name, wrapper)
        )

    @classmethod
    def supports(cls, version: str) -> bool:
        """Tell whether this version of the SDK can be patched."""
        return takes(cls.requires, version)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._wrapped = []

    def instrument(self, **kwargs: Any) -> None:
        """Begin to schedule. What stands in the way is logged, and a later `instrument` tries again."""
        super().instrument(**kwargs)
        self._is_instrumented_by_opentelemetry = type(self)._active

    def _instrument(self, **kwargs: Any) -> None:
        cls = type(self)
        try:
            runtime = _runtime.current()
        except ConfigurationError as error:
            # Other instrumentors load after this one: they must not pay for our settings.
            _logger.error("loco-otel is not active, %s calls go unscheduled: %s", self.sdk, error)  # noqa: TRY400
            return
        if not runtime.settings.enabled:
            _logger.info("LOCO_ENABLED is false: %s calls go unscheduled", self.sdk)
            return
        if not self._can_be_patched():
            return
        runtime.observe(kwargs.get("tracer_provider"), kwargs.get("meter_provider"))
        cls._active = True
        module = self.targets()[0].module
        if not cls._hooked:
            cls._hooked = True
            wrapt.register_post_import_hook(lambda _: self._wrap(), module)
        elif module in sys.modules:
            self._wrap()

    def _can_be_patched(self) -> bool:
        """Look at the SDK's version: under the launcher OpenTelemetry looks only at that of our own distribution."""
        version = installed_version(self.sdk)
        if version is None:
            _logger.debug("%s is not installed", self.sdk)
            return False
        if not self.supports(version):
            _logger.warning(
                "loco-otel leaves %s %s alone, its calls go unscheduled: it takes %s", self.sdk, version, self.requires
            )
            return False
        return True

    def _uninstrument(self, **_: Any) -> None:
        self._unwrap_all()
        runtime = _runtime.peek()
        if runtime is not None:
            runtime.sdks.pop(self.sdk, None)

    def _unwrap_all(self) -> None:
        cls = type(self)
        cls._active = False
        wrapped, cls._wrapped = cls._wrapped, []
        for owner, name, wrapper in wrapped:
            _unwrap(owner, name, wrapper)

    def _wrap(self) -> None:
        """Wrap all targets, once the SDK is there: all of them or none."""
        cls = type(self)
        if not cls._active or cls._wrapped:
            return
        try:
            for target in self.targets():
                owner = target.resolve()
                wrapper = wrapt.wrap_function_wrapper(owner, target.method, self._while_active(target.wrapper))
                cls._wrapped.append((owner, target.method, wrapper))
        except Exception:
            # Calls whose pauses are not seen would keep their slots through them.
            self._unwrap_all()
            self._is_instrumented_by_opentelemetry = False
            _logger.exception("loco-otel cannot patch %s: its calls go unscheduled", self.sdk)
            return
        _runtime.current().announce(self.sdk, installed_version(self.sdk) or UNKNOWN)

    def _while_active(self, wrapper: Wrapper) -> Wrapper:
        """Let a wrapper that cannot be taken off, because another is on top of it, at least step aside."""
        cls = type(self)

        def gate(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not cls._active:
                return wrapped(*args, **kwargs)
            return wrapper(wrapped, instance, args, kwargs)

        return gate


def _is_in_place(owner: Any, name: str, wrapper: Any) -> bool:
    """Tell whether a method still has a wrapper, be it under those of others."""
    return inspect.unwrap(vars(owner).get(name), stop=lambda layer: layer is wrapper) is wrapper


def _unwrap(owner: Any, name: str, wrapper: Any) -> None:
    try:
        wrapt.unwrap_object(owner, name, wrapper, missing_ok=True)
    except wrapt.WrapperNotOutermostError:
        # Under somebody's plain function it can't be taken out; `_while_active` lets calls through.
        _logger.debug("%s.%s keeps a wrapper that now does nothing", owner, name)
