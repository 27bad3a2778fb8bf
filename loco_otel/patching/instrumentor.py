"""The base of the instrumentors: wraps an SDK's methods, and unwraps them."""

import logging
import sys
from abc import abstractmethod
from collections.abc import Collection
from types import ModuleType
from typing import Any

import wrapt
from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined] # it opts out of type checking
    BaseInstrumentor,
)

from loco_otel._runtime import faults, process
from loco_otel._telemetry import record_inactive_sdk
from loco_otel.errors import ConfigurationError
from loco_otel.events import InactiveReason
from loco_otel.patching import agent_identity, repatching, thread_context
from loco_otel.patching.patch_set import PatchSet
from loco_otel.patching.target import Target
from loco_otel.patching.versions import UNKNOWN_VERSION, accepts_version, find_installed_version

_logger = logging.getLogger("loco_otel")


class LocoInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Schedules one SDK's calls. Each SDK's folder defines a subclass.

    OpenTelemetry makes instrumentors singletons, so the state is the class's.
    """

    sdk: str
    """Import name of the SDK, and name of its distribution."""
    requires: str
    """The versions that can be patched, as a requirement."""
    not_covered: tuple[str, ...] = ()
    """What of the SDK asks a model and is neither scheduled nor counted, for the doctor."""

    needs_hosts = False
    """Whether it schedules only the calls to the hosts that the setting `http_hosts` names. Without one it is off."""

    _is_active = False
    _version = UNKNOWN_VERSION
    """The SDK's, since it was checked."""
    _logged_error: str | None = None
    """The invalid setting that was logged, for all SDKs."""
    _meter_provider: Any = None
    _hooked_modules: set[str]
    """Those whose targets are wrapped after their import."""
    _patch_set: PatchSet

    @abstractmethod
    def list_targets(self) -> tuple[Target, ...]:
        """Return what to wrap.

        The targets of a module are wrapped when the program imports it. The SDK counts as patched with the module of
        the first target. Other modules may be missing from some versions, and are not imported for our sake.
        """

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the requirement that the SDK must meet."""
        return (self.requires,)

    @classmethod
    def list_patched(cls) -> tuple[str, ...]:
        """Return the methods that are wrapped now: none before the SDK is imported, nor those that others restored."""
        return cls._patch_set.patched_methods

    @classmethod
    def supports_version(cls, version: str) -> bool:
        """Return whether this version of the SDK can be patched."""
        return accepts_version(cls.requires, version)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._hooked_modules = set()
        cls._patch_set = PatchSet()

    def instrument(self, **kwargs: Any) -> None:
        """Begin to schedule. A failure is logged, and a later `instrument` tries again."""
        super().instrument(**kwargs)
        self._is_instrumented_by_opentelemetry = type(self)._is_active

    def instrument_early(self) -> None:
        """Begin to schedule before other instrumentors wrap the SDK, so that their wrappers enclose ours."""
        self._instrument()

    def _instrument(self, **kwargs: Any) -> None:
        cls = type(self)
        cls._meter_provider = kwargs.get("meter_provider")
        try:
            runtime = process.get_runtime()
        except ConfigurationError as error:
            # Raising would keep the launcher from loading the instrumentors after this one.
            if LocoInstrumentor._logged_error != str(error):
                LocoInstrumentor._logged_error = str(error)
                _logger.error("loco-otel is not active, calls of all SDKs go unscheduled: %s", error)  # noqa: TRY400
            self._record_inactive(InactiveReason.CONFIGURATION_ERROR)
            return
        LocoInstrumentor._logged_error = None
        if not runtime.settings.enabled:
            _logger.info("LOCO_ENABLED is false: %s calls go unscheduled", self.sdk)
            self._record_inactive(InactiveReason.DISABLED)
            return
        if cls.needs_hosts and not runtime.settings.http_hosts:
            _logger.debug("LOCO_HTTP_HOSTS names no host: %s is not patched", self.sdk)
            return
        runtime.start_telemetry(kwargs.get("tracer_provider"), kwargs.get("meter_provider"))
        if cls._is_active or not self._can_patch():
            return
        cls._is_active = True
        agent_identity.enable_readers(cls)
        for module in dict.fromkeys(target.hooked_module for target in self.list_targets()):
            if module not in cls._hooked_modules:
                cls._hooked_modules.add(module)
                wrapt.register_post_import_hook(self._wrap_imported, module)
            elif module in sys.modules:
                self._wrap_targets(module)

    def _wrap_imported(self, module: ModuleType) -> None:
        self._wrap_targets(module.__name__)

    def _can_patch(self) -> bool:
        """Check the SDK's version: OpenTelemetry's launcher checks only our own distribution's."""
        version = find_installed_version(self.sdk)
        if version is None:
            _logger.debug("%s is not installed", self.sdk)
            return False
        if not self.supports_version(version):
            _logger.warning(
                "loco-otel leaves %s %s alone, its calls go unscheduled: it takes %s", self.sdk, version, self.requires
            )
            self._record_inactive(InactiveReason.UNSUPPORTED_VERSION)
            return False
        type(self)._version = version
        return True

    def _record_inactive(self, reason: InactiveReason) -> None:
        """Show in metrics why the calls of the SDK are not scheduled, if it is installed."""
        version = find_installed_version(self.sdk)
        if version is None:
            return
        try:
            record_inactive_sdk(self.sdk, version, reason, type(self)._meter_provider)
        except Exception:
            faults.log_fault("showing an unscheduled SDK in metrics")

    def _uninstrument(self, **_: Any) -> None:
        self._unwrap_targets()
        runtime = process.get_existing_runtime()
        if runtime is not None:
            runtime.sdks.pop(self.sdk, None)

    def _unwrap_targets(self) -> None:
        cls = type(self)
        cls._is_active = False
        repatching.unregister_reapply(cls._patch_set.reapply_patches)
        thread_context.disable_propagation(cls)
        agent_identity.disable_readers(cls)
        cls._patch_set.remove_patches()

    def _wrap_targets(self, module: str) -> None:
        """Wrap all targets of an imported module. If one cannot be wrapped, none of the SDK stays so."""
        cls = type(self)
        if not cls._is_active:
            return
        targets = self.list_targets()
        try:
            cls._patch_set.apply_patches(
                target for target in targets if target.hooked_module == module and target.module in sys.modules
            )
        except Exception:
            self._unwrap_targets()
            self._is_instrumented_by_opentelemetry = False
            _logger.exception("loco-otel cannot patch %s: its calls go unscheduled", self.sdk)
            self._record_inactive(InactiveReason.PATCH_FAILED)
            return
        if module != targets[0].hooked_module:
            return
        repatching.register_reapply(cls._patch_set.reapply_patches)
        thread_context.enable_propagation(cls)
        process.get_runtime().register_sdk(self.sdk, cls._version)
