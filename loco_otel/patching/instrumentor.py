"""Puts wrappers on an SDK and takes them off again."""

import logging
import sys
from abc import abstractmethod
from collections.abc import Collection
from typing import Any

import wrapt
from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined] # it opts out of type checking
    BaseInstrumentor,
)

from loco_otel._runtime import process
from loco_otel.errors import ConfigurationError
from loco_otel.patching import repatching, thread_context
from loco_otel.patching.patch_set import Placement
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
    _placement: Placement

    @abstractmethod
    def targets(self) -> tuple[Target, ...]:
        """Return what to wrap, all in one module."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the SDK, and the versions that can be patched."""
        return (self.requires,)

    @classmethod
    def patched(cls) -> tuple[str, ...]:
        """Name the methods that are wrapped now: none before the SDK is imported, nor those that somebody put back."""
        return cls._placement.methods

    @classmethod
    def supports(cls, version: str) -> bool:
        """Tell whether this version of the SDK can be patched."""
        return takes(cls.requires, version)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._placement = Placement()

    def instrument(self, **kwargs: Any) -> None:
        """Begin to schedule. What stands in the way is logged, and a later `instrument` tries again."""
        super().instrument(**kwargs)
        self._is_instrumented_by_opentelemetry = type(self)._active

    def instrument_early(self) -> None:
        """Begin to schedule before others come, so that they wrap what is ours; `instrument` then has little to do."""
        self._instrument()

    def _instrument(self, **kwargs: Any) -> None:
        cls = type(self)
        try:
            runtime = process.current()
        except ConfigurationError as error:
            # Other instrumentors load after this one: they must not pay for our settings.
            _logger.error("loco-otel is not active, %s calls go unscheduled: %s", self.sdk, error)  # noqa: TRY400
            return
        if not runtime.settings.enabled:
            _logger.info("LOCO_ENABLED is false: %s calls go unscheduled", self.sdk)
            return
        runtime.observe(kwargs.get("tracer_provider"), kwargs.get("meter_provider"))
        if cls._active or not self._can_be_patched():
            return
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
        self._unwrap()
        runtime = process.peek()
        if runtime is not None:
            runtime.sdks.pop(self.sdk, None)

    def _unwrap(self) -> None:
        cls = type(self)
        cls._active = False
        repatching.leave_alone(cls._placement.heal)
        thread_context.leave(cls)
        cls._placement.remove()

    def _wrap(self) -> None:
        """Wrap all targets, once the SDK is there: all of them or none."""
        cls = type(self)
        if not cls._active:
            return
        try:
            cls._placement.put(self.targets())
        except Exception:
            self._unwrap()
            self._is_instrumented_by_opentelemetry = False
            _logger.exception("loco-otel cannot patch %s: its calls go unscheduled", self.sdk)
            return
        repatching.look_after(cls._placement.heal)
        thread_context.follow(cls)
        process.current().announce(self.sdk, installed_version(self.sdk) or UNKNOWN)
