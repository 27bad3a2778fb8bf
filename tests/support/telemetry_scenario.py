"""Hand-built events, a real SDK that keeps all in memory, and a scenario that makes every row happen."""

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any

import httpx2
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric, MetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler
from opentelemetry.trace import Span

from loco_otel import _fork
from loco_otel._telemetry import CallTrace, presence
from loco_otel._telemetry.inference import InferenceRequest
from loco_otel._telemetry.pipeline import ProcessState, Telemetry
from loco_otel.events import (
    AgentSnapshot,
    BudgetExceeded,
    BudgetReached,
    Bypassed,
    BypassReason,
    Event,
    GateCause,
    Gated,
    Granted,
    GrantReason,
    InactiveReason,
    LimitAction,
    LimitDecided,
    Limited,
    LimitReason,
    Outcome,
    Priority,
    Rejected,
    Released,
    Request,
    ResourceSnapshot,
    RunEnded,
    SlotTaken,
    Snapshot,
    Spending,
    Spent,
    Submitted,
    Suspended,
    Throttled,
    ThrottleKind,
    TicketView,
    Usage,
    Waiting,
)
from loco_otel.money import AccountKey, Action, Budget, BudgetReport, BudgetStatus, BudgetStore, Period, Scope, Unit
from loco_otel.snapshots import CapacityMode, EngineMode, EngineSnapshot, ReportedLimit

SECOND = 1_000_000_000
EPOCH = 1_700_000_000 * SECOND
"""Wall clock at the scheduler's second 0."""


USAGE = Usage(100, 20)


class FakeTicket:
    _ids = count()

    def __init__(self, request: Request) -> None:
        self.id = f"ticket-{next(self._ids)}"
        self.request = request


class ManualClock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.epoch = EPOCH

    def __call__(self) -> float:
        return self.now

    def wall(self) -> int:
        return self.epoch + round(self.now * SECOND)


class Rig:
    """Telemetry over an SDK in memory."""

    def __init__(
        self,
        *,
        sampler: Sampler = ALWAYS_ON,
        readers: Iterable[MetricReader] = (),
        snapshot: Callable[[], Snapshot] | None = None,
        active: Iterable[tuple[str, str]] = (("openai", "3.54.0"),),
        value_limit: int = 200,
        resources: Iterable[str] = (),
    ) -> None:
        presence._inactive.clear()
        self.clock = ManualClock()
        self.snapshots = self.events_dropped = 0
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self._program = self.tracer_provider.get_tracer("program")
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader, *readers], shutdown_on_exit=False)

        def counted() -> Snapshot:
            self.snapshots += 1
            return (snapshot or standing)()._replace(events_dropped=self.events_dropped)

        self.telemetry = Telemetry.from_providers(
            ProcessState(counted, lambda: active, lambda: REPORT, take_engine_calls=lambda: (0.0004,)),
            tracer_provider=self.tracer_provider,
            meter_provider=self.meter_provider,
            clock=self.clock,
            wall=self.clock.wall,
            value_limit=value_limit,
            resources=resources,
            shows_costs=True,
        )

    def tell(self, *events: Event) -> None:
        for event in events:
            for listener in self.telemetry.listeners:
                listener(event)

    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def span(self) -> ReadableSpan:
        (span,) = self.spans()
        return span

    def parent(self) -> Span:
        """A span of the program's."""
        return self._program.start_span("program")

    def metrics(self) -> dict[str, Metric]:
        self.clock.now += 1
        data = self.reader.get_metrics_data()
        return {metric.name: metric for metric in _metrics_of(data)}

    def points(self, name: str) -> dict[tuple[object, ...], float]:
        """Values (of a histogram, counts) under the values of their attributes, in the order of the keys."""
        metric = self.metrics().get(name)
        return {} if metric is None else dict(_values(metric))


def _metrics_of(data: object) -> Iterator[Metric]:
    for resource in getattr(data, "resource_metrics", ()):
        for scope in resource.scope_metrics:
            yield from scope.metrics


def _values(metric: Metric) -> Iterator[tuple[tuple[object, ...], float]]:
    for point in metric.data.data_points:
        attributes = point.attributes or {}
        key = tuple(attributes[name] for name in sorted(attributes))
        yield key, point.value if hasattr(point, "value") else point.count


def under(span: Span) -> CallTrace:
    return CallTrace(trace.set_span_in_context(span, Context()))


def ticket(agent: str = "analyst", **facts: Any) -> FakeTicket:
    return FakeTicket(Request(agent)._replace(**facts))


def waiting(who: TicketView, at: float = 990.0, holders: Iterable[TicketView] = ()) -> Waiting:
    return Waiting(at, who, queue_weight=4500, position=2, capacity=3, waiting=7, holders=tuple(holders))


def granted(
    who: TicketView,
    at: float = 995.0,
    *,
    waited: float = 5.0,
    ticks: int = 12,
    reason: GrantReason = GrantReason.SCORE,
    repeated: bool = False,
) -> Granted:
    return Granted(
        at,
        who,
        reason=reason,
        waited=waited,
        waited_ticks=ticks,
        score=0.75,
        alpha=0.25,
        queue_weight=4500,
        queue_age=40,
        tick=321,
        policy="load",
        repeated=repeated,
    )


def rejected(
    who: TicketView, outcome: Outcome = Outcome.TIMEOUT, at: float = 995.0, *, repeated: bool = False
) -> Rejected:
    return Rejected(at, who, outcome, waited=5.0, waited_ticks=12, policy="load", repeated=repeated)


def throttled(
    who: TicketView,
    at: float = 996.0,
    *,
    status: int = 429,
    kind: ThrottleKind = ThrottleKind.LOAD,
    retry_after: float | None = 1.5,
) -> Throttled:
    return Throttled(at, who, status, kind, retry_after, None)


def spent(who: TicketView, at: float = 999.0, *, usage: Usage | None = USAGE, usd: int | None = 2500) -> Spent:
    return Spent(at, who, Spending(usage, weight=1500, model="gpt-4o-2024-08-06", usd=usd))


DAILY = BudgetStatus(
    AccountKey(Scope.AGENT, "analyst", Unit.USD, Period.DAY), 5_000_000, 4_000_000, 250_000, 90_000.0, Action.DOWNGRADE
)
HEAVY = BudgetStatus(AccountKey(Scope.ALL, "*", Unit.WEIGHT, Period.TOTAL), 100_000, 7_500, 0, None, Action.REJECT)
REPORT = BudgetReport(BudgetStore.LEDGER, (DAILY, HEAVY), {DAILY.key: 9_000_000}, (Budget(Scope.RUN, None, 500_000),))


def released(who: TicketView, at: float = 999.5, *, expired: bool = False) -> Released:
    return Released(at, who, held=4.5, expired=expired)


def standing() -> Snapshot:
    analyst = AgentSnapshot("analyst", 3, 1, 4500, 40, 12.5, 0.75)
    idle = AgentSnapshot("idle", 0, 2, 0, 0, 0.0, None)
    return Snapshot(
        1000.0,
        (
            ResourceSnapshot(
                "llm_api",
                "load",
                3,
                3,
                3,
                321,
                0.25,
                0.9,
                (analyst, idle),
                used=3,
                mode=CapacityMode.AUTO,
                reference=5,
                rate_limits=(ReportedLimit("requests", 500, 499), ReportedLimit("tokens", 30_000, None)),
            ),
            ResourceSnapshot(
                "search", "load", None, 0, 0, 7, 0.5, None, (), 12.5, "retry-after", mode=CapacityMode.UNLIMITED
            ),
        ),
        max_waiting=50,
        engine=EngineSnapshot(EngineMode.REMOTE, 2, (("llm_api", 1),), (("NOSCRIPT", 1),)),
    )


SUBJECT = InferenceRequest(
    "chat",
    "openai",
    "gpt-4o",
    httpx2.URL("https://api.openai.com/v1"),
    {
        "stream": True, "max_tokens": 64, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "frequency_penalty": 0.1,
        "presence_penalty": 0.1, "seed": 7, "n": 2, "response_format": {"type": "json_object"},
        "reasoning_effort": "high", "previous_response_id": "resp-1", "service_tier": "flex",
    },
)  # fmt: skip


def everything(rig: Rig) -> None:
    """Make every metric, span and event happen, with every attribute that may be left out."""
    facts = {"run": "run-1", "workflow": "digest", "priority": Priority.INTERACTIVE, "deadline": 1010.0}
    full = ticket(provider="openai", model="gpt-4o", settles=True, context=rig.telemetry.create_trace(), **facts)
    call: CallTrace = full.request.context
    call.set_caller("acme", "research", "digest", "conversation-1", "run-1")
    call.begin_call("analyst", SUBJECT, has_sdk_span=False)
    traced = ticket(provider="openai", model="gpt-4o", settles=True, context=rig.telemetry.create_trace(), run="run-2")
    traced.request.context.set_caller("acme", "research", "digest", "conversation-1", "run-1")
    traced.request.context.begin_call("analyst", SUBJECT, has_sdk_span=True)
    refused = ticket(context=rig.telemetry.create_trace())
    usage = Usage(100, 20, cache_read_tokens=10, cache_write_tokens=5, reasoning_tokens=8)
    spending = Spending(
        usage,
        1500,
        "gpt-4o-2024-08-06",
        "chatcmpl-1",
        ("stop", "length"),
        2500,
        997_500,
        Action.DOWNGRADE,
        "gpt-4o-mini",
        ("web_searches",),
        "flex",
    )
    presence.record_inactive("groq", "0.1.0", InactiveReason.UNSUPPORTED_VERSION)
    _fork._share_page()  # as the first fork does
    rig.tell(Limited(980.0, "llm_api", 3, 3))
    over = BudgetExceeded(994.0, full, Action.DOWNGRADE, (DAILY,), "gpt-4o-mini")
    decided = LimitDecided(989.0, full, LimitReason.RUN_REPEATS, LimitAction.WARNED)
    rig.tell(decided, Submitted(990.0, full), waiting(full), over, granted(full))
    call.begin_inference("analyst", 995.0)
    rig.tell(throttled(full), Suspended(996.5, full, held=1.5), granted(full, 998.0, repeated=True))
    assert call.inference_span is not None
    call.inference_span.first_chunk_at = 998.5
    call.record_error(ValueError())
    rig.tell(
        BudgetReached(999.0, full, 80, DAILY),
        Spent(999.0, full, spending),
        released(full, expired=True),
        RunEnded(1000.0, "run-1"),
        Submitted(990.0, traced),
        granted(traced),
        throttled(traced),
        BudgetReached(999.0, traced, 95, HEAVY),
        Spent(999.0, traced, spending),
        released(traced),
        spent(refused, usd=None),
        Submitted(990.0, refused),
        BudgetExceeded(994.0, refused, Action.REJECT, (HEAVY,), None),
        rejected(refused),
        Bypassed(1000.0, BypassReason.UNSUPPORTED_RUNTIME),
    )
    wait_for_everything(rig)
    guessed = ticket(settles=True, context=rig.telemetry.create_trace())
    guessed.request.context.begin_call("analyst", SUBJECT, has_sdk_span=False)
    rig.tell(granted(guessed))
    guessed.request.context.begin_inference("analyst", 995.0)
    rig.tell(spent(guessed, usage=Usage(100, 20, estimated=True)), released(guessed))


def wait_for_everything(rig: Rig) -> None:
    """Let an agent wait a second for each cause."""
    name = "crowded"
    facts = {"resources": (name,), "tenant": "acme"}
    own, other, heavy = (
        ticket(agent, context=rig.telemetry.create_trace(), **facts) for agent in ("analyst", "crawler", "analyst")
    )
    unseen = ticket(context=rig.telemetry.create_trace(), **facts)
    rig.tell(Limited(980.0, name, 2, 3), granted(own, 980.0, waited=0.0), granted(other, 980.0, waited=0.0))
    # A third each for the agent's own slot, the other's, and the one that the limit withholds.
    rig.tell(waiting(heavy, 981.0), Gated(984.0, name, GateCause.BACKOFF, 985.0))
    rig.tell(Gated(985.0, name, GateCause.REQUESTS, 986.0, queue=(name,)))
    rig.tell(Gated(986.0, name, GateCause.TOKENS, 987.0, queue=(name,)), released(own, 987.0))
    rig.tell(Limited(987.0, name, 2, 2, ("crowded", "wide")), SlotTaken(989.0, heavy))
    rig.tell(granted(heavy, 990.0, waited=9.0)._replace(slot_at=989.0), released(heavy, 991.0))
    rig.tell(granted(unseen, 992.0), released(unseen, 993.0))
