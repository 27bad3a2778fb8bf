"""The parts of one process: core, engine, telemetry and budgets, built from the settings."""

import atexit
import logging
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING

from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider, TracerProvider

from loco_otel._budgets.controller import BudgetController
from loco_otel._budgets.governor import Governor
from loco_otel._config.engine_rules import MEMORY, hide_password
from loco_otel._config.settings import Settings
from loco_otel._core.adaptive_limit import AdaptiveLimit
from loco_otel._core.provider_pause import store_rate_limits
from loco_otel._core.reconfiguration import set_max_hold, set_policy, set_resource
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.ticket import Ticket, list_open_bodies
from loco_otel._engine.in_process import InProcessEngine
from loco_otel._fork import ForkSafeLock
from loco_otel._runtime.faults import UNSCHEDULED, log_fault, log_unsupported
from loco_otel._runtime.identity import UNKNOWN_AGENT, Identity, resolve_identity
from loco_otel._runtime.order_settings import (
    build_policy_factory,
    build_priority_rules,
    build_tuner_factory,
    convert_shares,
)
from loco_otel._runtime.router import Router
from loco_otel._runtime.shared_statements import make_discovered, make_statements, reject_adaptive_changes
from loco_otel._runtime.token_averages import TokenAverages
from loco_otel._telemetry import CallTrace, detect_active_signals, record_active_sdk
from loco_otel.errors import ConfigurationError
from loco_otel.events import DEFAULT_RESOURCE, BypassReason, RateLimits

if TYPE_CHECKING:
    from loco_otel._telemetry.pipeline import Telemetry

_logger = logging.getLogger("loco_otel")

_SDK_CHECK_INTERVAL = 1.0
"""Seconds between two searches for an OpenTelemetry SDK, while none is found."""

_BATCH_SIZE = 64
"""Events per delivery, if all listeners accept batches: the events of about sixteen calls."""
_GENAI_OPT_IN = "gen_ai_latest_experimental"
"""What OpenTelemetry's variable names for what the GenAI conventions do not have yet."""


_ENGINE_KEYS = ("engine", "engine_namespace", "engine_ttl", "engine_timeout", "engine_on_error")
_ORDER_KEYS = (
    *("policy", "queue_by", "alpha", "max_wait_ticks", "shares", "tenant_shares", "auto_tune", "half_life"),
    *("run_idle_timeout", "priority"),
)
"""The settings that change the order of waiters."""

_start_hooks: list[Callable[[Settings], None]] = []


def add_start_hook(hook: Callable[[Settings], None]) -> None:
    """Call a function with the settings of each runtime that is created later."""
    _start_hooks.append(hook)


class Runtime:
    """One scheduler for all threads and event loops of the process, with its listeners.

    Args:
        settings: the settings that it starts with.

    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sdks: dict[str, str] = {}
        """Versions of the SDKs whose calls are scheduled, by name."""
        core = Scheduler(
            {},
            build_policy_factory(settings),
            max_wait_ticks=settings.max_wait_ticks,
            max_waiters=settings.max_waiters,
            max_hold=settings.max_hold,
            make_unknown_pool=self._create_discovered_pool,
            tenant_shares=convert_shares(settings.tenant_shares),
            tuner=build_tuner_factory(settings),
            by_run=settings.queue_by == "run",
            priorities=build_priority_rules(settings),
        )
        self._apply_resource_limits(core, 0.0)
        self._core = core
        self.engine = self._create_engine(core)
        self.averages = TokenAverages()
        self.budgets = BudgetController(settings, self.engine)
        self.governor = Governor(settings, self.engine)
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
        """The agent of a call that no source identifies."""
        return self.settings.agent_id or self.settings.service_name or UNKNOWN_AGENT

    @property
    def is_weight_needed(self) -> bool:
        """Whether anything reads the weights of calls.

        Without a limit no call waits and no weight decides; without a listener no weight is reported. A limit or a
        listener that is added later starts from estimates.
        """
        return self._has_limits or self.engine.observed or self._core.has_learnt or self.budgets.is_counting

    @property
    def has_learnt(self) -> bool:
        """Whether a provider has throttled any call so far."""
        return self._core.has_learnt

    @property
    def has_metrics(self) -> bool:
        """Whether metrics are exported."""
        return self._metrics is not None

    def store_rate_limits(self, ticket: Ticket, limits: RateLimits) -> None:
        """Store a provider's remaining limits for metrics alone: nothing pauses before it has refused a request."""
        store_rate_limits(self._core, ticket.request.resources, limits)

    def _apply_resource_limits(self, core: Scheduler, now: float) -> None:
        """Apply the limits of the settings."""
        settings = self.settings
        rates = {"requests_per_minute": settings.requests_per_minute, "tokens_per_minute": settings.tokens_per_minute}
        fixed = settings.capacity is not None
        if settings.mode == "observe":
            self._remove_resource_limits(core, now, has_fixed_capacity=fixed)
            return
        self.router = Router(settings.resources, has_fixed_capacity=fixed)
        """Maps a call to its resources."""
        self._has_limits = fixed or bool(settings.resources) or any(rates.values())
        set_resource(core, DEFAULT_RESOURCE, settings.capacity, now, **(rates if fixed else {}))
        for rule in settings.resources:
            capacity = AdaptiveLimit(rule.capacity_max or inf) if rule.capacity is None else rule.capacity
            set_resource(
                core,
                rule.name,
                capacity,
                now,
                requests_per_minute=rule.requests_per_minute,
                tokens_per_minute=rule.tokens_per_minute,
            )
        for name in core.resources.list_created():
            set_resource(core, name, AdaptiveLimit(settings.capacity_max or inf), now, **rates)

    def _remove_resource_limits(self, core: Scheduler, now: float, *, has_fixed_capacity: bool) -> None:
        """Limit no resource, so that no call waits."""
        rules = self.settings.resources
        self.router = Router(rules, has_fixed_capacity=has_fixed_capacity)
        self._has_limits = False
        for name in (DEFAULT_RESOURCE, *(rule.name for rule in rules), *core.resources.list_created()):
            set_resource(core, name, None, now)

    def _create_engine(self, core: Scheduler) -> InProcessEngine:
        settings = self.settings
        if settings.engine == MEMORY:
            return InProcessEngine(core)
        # Only here, as the client library is slow to import, and optional.
        from loco_otel._engine.redis.address import MISSING_CLIENT, import_client  # noqa: PLC0415
        from loco_otel._engine.redis.engine import EngineOptions, RedisEngine  # noqa: PLC0415

        try:
            import_client()
        except ImportError as error:
            raise ConfigurationError(MISSING_CLIENT) from error
        options = EngineOptions(
            settings.engine,
            settings.engine_namespace,
            settings.engine_ttl,
            settings.engine_timeout,
            settings.engine_on_error,
        )
        return RedisEngine(core, options, make_statements(settings), discovered=make_discovered(settings))

    def _create_discovered_pool(self, name: str) -> SlotPool:
        """Create the resource of a provider's host at the first call to it."""
        settings = self.settings
        if settings.mode == "observe":
            return SlotPool(name, None)
        pool = SlotPool(name, AdaptiveLimit(settings.capacity_max or inf))
        pool.set_rate_limits(settings.requests_per_minute, settings.tokens_per_minute)
        return pool

    def resolve_resource_names(self, resources: Sequence[str]) -> tuple[str, ...]:
        """Return the names of resources, sorted.

        Raises:
            ValueError: a name is not in the settings, a name occurs twice, or there is none.

        """
        known = (DEFAULT_RESOURCE, *(rule.name for rule in self.settings.resources))
        names = (resources,) if isinstance(resources, str) else tuple(resources)
        if len(names) > 1:  # one name stays the caller's tuple, usually a constant, so that no slot keeps its own
            names = tuple(sorted(names))
        for name in names:
            if name not in known:
                raise ValueError(f"resources must be names from the settings ({', '.join(known)}), not {name!r}")
        if not names or len(set(names)) < len(names):
            raise ValueError(f"resources must name at least one resource, each once, not {resources!r}")
        return names

    def apply_settings(self, settings: Settings) -> None:
        """Replace the settings. New limits and policies take effect at once.

        Raises:
            ConfigurationError: they name another engine.

        """
        if any(getattr(settings, key) != getattr(self.settings, key) for key in _ENGINE_KEYS):
            raise ConfigurationError(
                f"{', '.join(_ENGINE_KEYS)} are read at the start of a program, not by configure()"
            )
        if settings.engine != MEMORY:
            reject_adaptive_changes(self.settings, settings)
        self.budgets.apply_settings(settings)
        self.governor.apply_settings(settings)
        before, self.settings = self.settings, settings

        def change(core: Scheduler, now: float) -> None:
            core.max_waiters = settings.max_waiters
            if settings.max_hold != before.max_hold:
                set_max_hold(core, settings.max_hold, now)
            if any(getattr(settings, key) != getattr(before, key) for key in _ORDER_KEYS):
                tenant_shares = convert_shares(settings.tenant_shares)
                set_policy(
                    core,
                    build_policy_factory(settings),
                    settings.max_wait_ticks,
                    now,
                    tenant_shares,
                    tuner=build_tuner_factory(settings),
                    by_run=settings.queue_by == "run",
                    priorities=build_priority_rules(settings),
                )
            self._apply_resource_limits(core, now)

        # First, as a new resource is shared from its first request on.
        self.engine.restate_limits(make_statements(settings), make_discovered(settings))
        self.engine.update_core(change)

    def start_telemetry(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        """Emit spans and metrics to the given or the global providers, if an OpenTelemetry SDK implements them.

        Idempotent per signal.
        """
        with self._attach_lock:
            self._attach_telemetry(tracer_provider, meter_provider)

    def _attach_telemetry(self, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None) -> None:
        found = detect_active_signals(tracer_provider, meter_provider)
        tracing = found.tracing and self._tracing is None
        metrics = found.metrics and self._metrics is None
        if not tracing and not metrics:
            return
        # Only here, as it is slow to import: programs without an OpenTelemetry SDK do not need it.
        from loco_otel._telemetry.pipeline import ProcessState, Telemetry  # noqa: PLC0415

        telemetry = Telemetry.from_providers(
            ProcessState(
                self.engine.take_snapshot,
                lambda: self.sdks.items(),  # noqa: PLW0108 - `sdks` may be replaced
                self.budgets.read_report,
                self.engine.flush,
                self.engine.take_call_durations,
            ),
            tracer_provider=tracer_provider if tracing else NoOpTracerProvider(),
            meter_provider=meter_provider if metrics else NoOpMeterProvider(),
            value_limit=self.settings.metric_values,
            run_idle_timeout=self.settings.run_idle_timeout,
            resources=(DEFAULT_RESOURCE, *(rule.name for rule in self.settings.resources)),
            shows_costs=_GENAI_OPT_IN in self.settings.semconv_opt_in,
        )
        self._tracing = telemetry if tracing else self._tracing
        self._metrics = telemetry if metrics else self._metrics
        for listener in telemetry.listeners:
            self.engine.add_listener(listener)
        # Not with the first call alone: the slots of an idle process count as well.
        self.engine.update_core(lambda core, now: core.emit_limits(core.resources.pools.values(), now))
        late = all(telemetry.can_batch for telemetry in (self._tracing, self._metrics) if telemetry is not None)
        self.engine.set_batch_size(_BATCH_SIZE if late else 1)
        # Handlers run in reverse order of registration: this one runs before the providers, which exist by now, shut
        # down.
        atexit.unregister(self._flush_at_exit)
        atexit.register(self._flush_at_exit)

    def detect_otel_sdk(self) -> None:
        """Find an OpenTelemetry SDK that the program configured after loco-otel. Cheap enough for every call."""
        if self._tracing is None or self._metrics is None:
            now = time.monotonic()
            if now >= self._next_sdk_check:
                self._next_sdk_check = now + _SDK_CHECK_INTERVAL
                try:
                    self.start_telemetry()
                except Exception:
                    log_fault("detecting an OpenTelemetry SDK", effect="calls continue without telemetry")

    def capture_trace(self, caller: Identity | None = None) -> CallTrace | None:
        """Capture the current context for the telemetry of a request; None without telemetry.

        Args:
            caller: None to identify it from the current context.

        """
        telemetry = self._tracing or self._metrics
        if telemetry is None:
            return None
        trace = telemetry.create_trace()
        try:
            caller = resolve_identity(self.default_agent) if caller is None else caller
            trace.set_caller(caller.tenant, caller.team, caller.workflow, caller.session, caller.run)
        except Exception:
            log_fault("identifying the caller of slot()", effect="its spans lack team, workflow and conversation")
        return trace

    def record_fault(self, what: str) -> None:
        """Log the exception being handled, and count a call that is sent unscheduled."""
        log_fault(what, effect=UNSCHEDULED)
        self._count_bypass(BypassReason.INTERNAL_ERROR)

    def record_unsupported(self, what: str) -> None:
        """Log, once per kind, what cannot be scheduled, and count the call."""
        log_unsupported(what)
        self._count_bypass(BypassReason.UNSUPPORTED_RUNTIME)

    def _count_bypass(self, reason: BypassReason) -> None:
        try:
            self.engine.record_bypass(reason)
        except Exception:
            log_fault("counting an unscheduled call")

    def register_sdk(self, sdk: str, version: str) -> None:
        """Record and log that the calls of an SDK are scheduled. The limits are logged before the first SDK."""
        if not self.sdks:
            _logger.info("%s", self._describe_limits())
        self.sdks[sdk] = version
        record_active_sdk(sdk)
        _logger.info("loco-otel schedules the calls of %s %s", sdk, version)

    def _describe_limits(self) -> str:
        capacity = self.settings.capacity
        if capacity is None:
            return (
                "LOCO_CAPACITY is auto: calls are not limited until a provider throttles one, then their number adapts"
                f" to the provider, policy {self.settings.policy}{self._describe_sharers(', ')}"
            )
        where = self._describe_sharers() or "in this process"
        return f"at most {capacity} concurrent calls {where} (LOCO_CAPACITY), policy {self.settings.policy}"

    def _describe_sharers(self, separator: str = "") -> str:
        if self.settings.engine == MEMORY:
            return ""
        return f"{separator}in all processes that share {hide_password(self.settings.engine)}"

    def close(self) -> None:
        """Reject waiting and new requests, deliver the remaining events, and stop telemetry."""
        self.engine.close()
        self.engine.flush()
        for telemetry in (self._tracing, self._metrics):
            if telemetry is not None:
                telemetry.close()
        self.budgets.close()
        self.governor.close()
        atexit.unregister(self._flush_at_exit)

    def abandon_open_bodies(self) -> None:
        """End the calls whose bodies the program keeps open while it ends: what was read of them is charged."""
        try:
            for _, body in list_open_bodies(self.engine.list_tickets()):
                body.abandon()
            self.engine.run_due_actions()
        except Exception:
            log_fault("ending the calls that are open as the process ends", effect="their costs are lost")

    def _flush_at_exit(self) -> None:
        self.abandon_open_bodies()
        self.engine.set_batch_size(1)
        self.engine.flush()
        if self._metrics is not None:
            try:
                self._metrics.finish_runs()
            except Exception:
                log_fault("recording the runs that the process ends", effect="they have no metrics")
