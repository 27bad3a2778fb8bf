"""The composition root: settings, core, engine and telemetry of this process, put together once."""

import atexit
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf

from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider, TracerProvider

from loco_otel._budgets.controller import BudgetController
from loco_otel._config.resource_rules import Router
from loco_otel._config.settings import Settings
from loco_otel._core.adaptive_limit import AdaptiveLimit
from loco_otel._core.alpha_tuner import AlphaTuner
from loco_otel._core.policies.base import Policy
from loco_otel._core.policies.registry import make_policy_factory
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.slot_pool import SlotPool
from loco_otel._engine.in_process import InProcessEngine
from loco_otel._fork import ForkSafeLock
from loco_otel._runtime.identity import UNKNOWN_AGENT
from loco_otel._runtime.token_averages import TokenAverages
from loco_otel._telemetry import CallTrace, Telemetry, detect_active_signals
from loco_otel.events import DEFAULT_RESOURCE, MILLI, BypassReason

_logger = logging.getLogger("loco_otel")

_SDK_CHECK_INTERVAL = 1.0
"""Seconds between two looks for an OpenTelemetry SDK, while there is none."""

_BATCH_SIZE = 64
"""Events that listeners are told of at a time, where they may be told late: those of some sixteen calls."""


class Runtime:
    """One scheduler for all threads and event loops of the process, and what listens to it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sdks: dict[str, str] = {}
        """Versions of the SDKs whose calls are scheduled, by name."""
        core = Scheduler(
            {},
            _make_policy_factory(settings),
            max_wait_ticks=settings.max_wait_ticks,
            max_waiters=settings.max_waiters,
            max_hold=settings.max_hold,
            make_unknown_pool=self._create_discovered_pool,
            tenant_shares=_convert_shares(settings.tenant_shares),
            tuner=_make_tuner_factory(settings),
        )
        self._apply_resource_limits(core, 0.0)
        self._core = core
        self.engine = InProcessEngine(core)
        self.averages = TokenAverages()
        self.budgets = BudgetController(settings, self.engine)
        self._tracing: Telemetry | None = None
        self._metrics: Telemetry | None = None
        self._attach_lock = ForkSafeLock()
        self._next_sdk_check = -inf
        for hook in _start_hooks:
            hook(settings)
        for message in settings.unknown:
            _logger.warning("%s", message)

    @property
    def default_agent(self) -> str:
        """Who calls when nothing else says."""
        return self.settings.agent_id or self.settings.service_name or UNKNOWN_AGENT

    @property
    def is_weight_needed(self) -> bool:
        """Whether anything depends on what calls weigh.

        Where nobody ever waits a weight decides nothing, and where nobody is told either it is seen by nobody. A limit
        or a listener that comes later begins with the estimates, and learns from the first call on.
        """
        return self._has_limits or self.engine.observed or self._core.has_learnt or self.budgets.is_counting

    @property
    def has_learnt(self) -> bool:
        """Whether a provider has ever pushed back."""
        return self._core.has_learnt

    def _apply_resource_limits(self, core: Scheduler, now: float) -> None:
        """Put the limits of the settings in force."""
        settings = self.settings
        rates = {"requests_per_minute": settings.requests_per_minute, "tokens_per_minute": settings.tokens_per_minute}
        fixed = settings.capacity is not None
        self.router = Router(settings.resources, has_fixed_capacity=fixed)
        """Names what a call needs."""
        self._has_limits = fixed or bool(settings.resources) or any(rates.values())
        core.set_resource(DEFAULT_RESOURCE, settings.capacity, now, **(rates if fixed else {}))
        for rule in settings.resources:
            capacity = AdaptiveLimit(rule.capacity_max or inf) if rule.capacity is None else rule.capacity
            core.set_resource(
                rule.name,
                capacity,
                now,
                requests_per_minute=rule.requests_per_minute,
                tokens_per_minute=rule.tokens_per_minute,
            )
        for name in core.resources.list_created():
            core.set_resource(name, AdaptiveLimit(settings.capacity_max or inf), now, **rates)

    def _create_discovered_pool(self, name: str) -> SlotPool:
        """Make the resource of a provider's host that is called for the first time."""
        settings = self.settings
        pool = SlotPool(name, AdaptiveLimit(settings.capacity_max or inf))
        pool.set_rate_limits(settings.requests_per_minute, settings.tokens_per_minute)
        return pool

    def resolve_resource_names(self, resources: Sequence[str]) -> tuple[str, ...]:
        """Return the names of resources in their order.

        Raises:
            ValueError: one of them is not in the settings, or is named twice.

        """
        known = (DEFAULT_RESOURCE, *(rule.name for rule in self.settings.resources))
        names = (resources,) if isinstance(resources, str) else tuple(sorted(resources))
        for name in names:
            if name not in known:
                raise ValueError(f"resources must be of {', '.join(known)}, not {name!r}")
        if not names or len(set(names)) < len(names):
            raise ValueError(f"resources must name at least one, and each once, not {resources!r}")
        return names

    def apply_settings(self, settings: Settings) -> None:
        """Go on under other settings."""
        self.budgets.apply_settings(settings)
        before, self.settings = self.settings, settings

        def change(core: Scheduler, now: float) -> None:
            core.max_waiters = settings.max_waiters
            if settings.max_hold != before.max_hold:
                core.set_max_hold(settings.max_hold, now)
            order = ("policy", "alpha", "max_wait_ticks", "shares", "tenant_shares", "auto_tune")
            if any(getattr(settings, key) != getattr(before, key) for key in order):
                tenant_shares = _convert_shares(settings.tenant_shares)
                core.set_policy(
                    _make_policy_factory(settings),
                    settings.max_wait_ticks,
                    now,
                    tenant_shares,
                    _make_tuner_factory(settings),
                )
            self._apply_resource_limits(core, now)

        self.engine.update_core(change)

    def start_telemetry(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        """Begin to tell the given providers, or the global ones, where a real SDK is behind them."""
        with self._attach_lock:
            self._attach_telemetry(tracer_provider, meter_provider)

    def _attach_telemetry(self, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None) -> None:
        found = detect_active_signals(tracer_provider, meter_provider)
        tracing = found.tracing and self._tracing is None
        metrics = found.metrics and self._metrics is None
        if not tracing and not metrics:
            return
        telemetry = Telemetry.from_providers(
            self.engine.take_snapshot,
            lambda: self.sdks.items(),  # noqa: PLW0108 - `sdks` may be replaced
            tracer_provider=tracer_provider if tracing else NoOpTracerProvider(),
            meter_provider=meter_provider if metrics else NoOpMeterProvider(),
            value_limit=self.settings.metric_values,
            resources=(DEFAULT_RESOURCE, *(rule.name for rule in self.settings.resources)),
            flush_events=self.engine.flush,
            budgets=self.budgets.read_statuses,
        )
        self._tracing = telemetry if tracing else self._tracing
        self._metrics = telemetry if metrics else self._metrics
        for listener in telemetry.listeners:
            self.engine.add_listener(listener)
        late = all(telemetry.can_batch for telemetry in (self._tracing, self._metrics) if telemetry is not None)
        self.engine.set_batch_size(_BATCH_SIZE if late else 1)
        # Now, as what is registered last runs first: before providers, which exist by now, shut down at exit.
        atexit.unregister(_flush_at_exit)
        atexit.register(_flush_at_exit)

    def detect_otel_sdk(self) -> None:
        """Notice an OpenTelemetry SDK that the program set up after us. Cheap enough for each call."""
        if self._tracing is None or self._metrics is None:
            now = time.monotonic()
            if now >= self._next_sdk_check:
                self._next_sdk_check = now + _SDK_CHECK_INTERVAL
                try:
                    self.start_telemetry()
                except Exception:
                    log_fault("looking for an OpenTelemetry SDK")

    def capture_trace(self) -> CallTrace | None:
        """Capture the current context for what is told of a request; None where nobody is told."""
        telemetry = self._tracing or self._metrics
        return None if telemetry is None else telemetry.create_trace()

    def record_fault(self, what: str) -> None:
        """Log a fault of ours, and count the call that goes out unscheduled."""
        log_fault(what)
        self._count_bypass(BypassReason.INTERNAL_ERROR)

    def record_unsupported(self, what: str) -> None:
        """Warn, once for each kind, of what cannot be scheduled, and count it."""
        if what not in _logged_once:
            _logged_once.add(what)
            _logger.warning("%s: the call goes on unscheduled; logged once", what)
        self._count_bypass(BypassReason.UNSUPPORTED_RUNTIME)

    def _count_bypass(self, reason: BypassReason) -> None:
        try:
            self.engine.record_bypass(reason)
        except Exception:
            log_fault("counting an unscheduled call")

    def register_sdk(self, sdk: str, version: str) -> None:
        """Note, and say at INFO, that an SDK's calls are scheduled now; the limits are said once."""
        if not self.sdks:
            _logger.info("%s", self._describe_limits())
        self.sdks[sdk] = version
        _logger.info("loco-otel schedules the calls of %s %s", sdk, version)

    def _describe_limits(self) -> str:
        capacity = self.settings.capacity
        if capacity is None:
            return (
                "LOCO_CAPACITY is auto: calls of this process go at once until a provider pushes back, then as many at"
                f" a time as it takes, policy {self.settings.policy}"
            )
        return f"loco-otel lets at most {capacity} calls of this process go at a time, policy {self.settings.policy}"

    def close(self) -> None:
        """Turn away all who wait and all who come, and stop telling."""
        self.engine.close()
        self.engine.flush()
        for telemetry in (self._tracing, self._metrics):
            if telemetry is not None:
                telemetry.close()
        self.budgets.close()


def _make_policy_factory(settings: Settings) -> Callable[[], Policy]:
    # Which of two equal agents goes first need not be the same in the next run, so any seed will do.
    draw = random.Random().random  # noqa: S311 - breaks ties, keeps no secret
    return make_policy_factory(
        settings.policy, alpha=settings.alpha, shares=_convert_shares(settings.shares), draw=draw
    )


def _convert_shares(shares: Mapping[str, float]) -> dict[str, int]:
    return {name: round(share * MILLI) for name, share in shares.items()}


def _make_tuner_factory(settings: Settings) -> Callable[[], AlphaTuner | None]:
    if settings.auto_tune and settings.policy == "load":
        return lambda: AlphaTuner(settings.alpha)
    return lambda: None


_logged_once: set[str] = set()
_start_hooks: list[Callable[[Settings], None]] = []


def add_start_hook(hook: Callable[[Settings], None]) -> None:
    """Call a function with the settings of each runtime that is created from now on."""
    _start_hooks.append(hook)


def log_fault(what: str) -> None:
    """Log a fault of ours, once for each kind, with the exception being handled."""
    if what not in _logged_once:
        _logged_once.add(what)
        _logger.error("loco-otel failed at %s; the program goes on, and this is logged once", what, exc_info=True)  # noqa: LOG014 - called in handlers


def record_fault(what: str) -> None:
    """Log a fault of ours, and count the call that goes out unscheduled, if there is anything to count it."""
    if _current is None:
        log_fault(what)
    else:
        _current.record_fault(what)


_current: Runtime | None = None
_creation_lock = ForkSafeLock()


def get_runtime() -> Runtime:
    """Return this process's runtime, made from the settings at the first call.

    Raises:
        ConfigurationError: a setting is wrong.

    """
    return _current or _create_runtime(None)


def get_existing_runtime() -> Runtime | None:
    """Return the runtime if there is one."""
    return _current


def change_settings(**changes: object) -> Settings:
    """Change settings of the running program; see `loco_otel.configure`."""
    runtime = get_runtime()
    with _creation_lock:
        settings = runtime.settings.changed(**changes)
        runtime.apply_settings(settings)
    # Without the lock: a callback for budgets may well change the settings again.
    runtime.budgets.recheck_waiters()
    return settings


def replace_runtime(settings: Settings | None) -> Runtime | None:
    """Close the runtime and make another from these settings, or none; what is patched goes on with the new one."""
    global _current
    with _creation_lock:
        before, _current = _current, None
    if before is not None:
        before.close()
    if settings is None:
        return None
    runtime = _create_runtime(settings)
    if before is not None:
        runtime.sdks = before.sdks
    return runtime


def _create_runtime(settings: Settings | None) -> Runtime:
    global _current  # noqa: PLW0603 - the one mutable global
    with _creation_lock:
        if _current is None:
            _current = Runtime(settings or Settings.load())
        return _current


def _shut_down_at_exit() -> None:
    # Threads that are joined at exit have ended by now: whoever still waits waits in a daemon thread.
    if _current is not None:
        _current.engine.close()
        _current.budgets.ledger_client.run_maintenance()


def _flush_at_exit() -> None:
    if _current is not None:
        _current.engine.set_batch_size(1)
        _current.engine.flush()


atexit.register(_shut_down_at_exit)
