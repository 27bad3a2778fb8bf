"""What the observable instruments read: one snapshot and one report of the budgets for each collection."""

import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

from loco_otel import _fork
from loco_otel._telemetry import catalogue
from loco_otel._telemetry.blame import BlameListener
from loco_otel._telemetry.catalogue import MetricDefinition
from loco_otel._telemetry.histogram_buffer import HistogramBuffer
from loco_otel._telemetry.instruments import CardinalityLimit, CounterSums, label_budget
from loco_otel._telemetry.runs import RunListener
from loco_otel._telemetry.time_sums import TimeSums
from loco_otel.money import AccountKey, Action, BudgetReport, BudgetStore
from loco_otel.snapshots import Snapshot

_SNAPSHOT_SECONDS = 0.1
"""Seconds for which a snapshot is reused: longer than one collection, shorter than the interval between two."""

NO_BUDGETS = BudgetReport(BudgetStore.MEMORY)


class _Collection(threading.local):
    """The current collection of a thread."""

    def __init__(self) -> None:
        self.read: set[str] = set()
        """The names of the instruments that were read."""


class ProcessState(NamedTuple):
    """Reads the state of the process."""

    snapshot: Callable[[], Snapshot]
    """Returns the state of all resources; called once per collection, on the collecting thread."""
    active_sdks: Callable[[], Iterable[tuple[str, str]]]
    """Returns name and version of each SDK whose calls are scheduled."""
    budgets: Callable[[], BudgetReport] = lambda: NO_BUDGETS
    """Returns the budgets, like `snapshot`."""
    flush_events: Callable[[], object] = lambda: None
    """Delivers pending events to the listeners."""
    take_engine_calls: Callable[[], Iterable[float]] = lambda: ()
    """Returns the seconds of each call of a shared engine since it was called last."""


class MetricsSource:
    """The data of the observable instruments: one snapshot for all callbacks of a collection.

    OpenTelemetry does not signal the start of a collection. So a snapshot is cached for a tenth of a second. Two
    threads that collect concurrently may each take one, which is correct but slower. Events are flushed when a thread
    reads an instrument that it has read since its last flush, and with its first.

    Args:
        state: reads the process.
        clock: seconds.
        fold: shared with the counters, so that all metrics use the same agent names.
        counters: the counters.
        time_sums: the integrals.
        blame_listener: the causes of waits.
        runs: those that have not ended.
        histogram_buffer: buffered measurements.
        record_engine_calls: takes the seconds of calls of a shared engine.

    """

    def __init__(
        self,
        state: ProcessState,
        clock: Callable[[], float],
        fold: CardinalityLimit,
        *,
        counters: Iterable[CounterSums],
        time_sums: TimeSums,
        blame_listener: BlameListener,
        runs: RunListener,
        histogram_buffer: HistogramBuffer,
        record_engine_calls: Callable[[Iterable[float]], None],
    ) -> None:
        self._record_engine_calls = record_engine_calls
        self._histogram_buffer = histogram_buffer
        self._state = state
        self.active_sdks = state.active_sdks
        self.cardinality_limit = fold
        self.counters = {sums.row: sums for sums in (*counters, time_sums.limit_changes)}
        self.time_sums = time_sums
        self.blame_listener = blame_listener
        self.runs = runs
        self.has_failed = False
        self.read_clock = clock
        self._collection = _Collection()
        self._events_dropped = 0
        self._latest: tuple[float, Snapshot] | None = None
        self._latest_budgets: tuple[float, BudgetReport] | None = None
        _fork.on_child(self, _fork.ForkPhase.MEASUREMENTS)

    def after_fork(self) -> None:
        """Forget what was read in the parent of a forked child."""
        self._latest = self._latest_budgets = None
        self._events_dropped = 0

    def begin_read(self, row: MetricDefinition) -> None:
        """Flush if a collection begins with this instrument."""
        read = self._collection.read
        if not read or row.name in read:
            read.clear()
            self.flush()
        read.add(row.name)

    def flush(self) -> None:
        """Update counters and histograms. SDKs call all callbacks before they read any histogram."""
        self._state.flush_events()
        self._record_engine_calls(self._state.take_engine_calls())
        self._histogram_buffer.flush()

    def finish_runs(self) -> None:
        """Record the runs that have not ended: nothing follows."""
        self._state.flush_events()
        self.runs.finish_all(self.read_clock())
        self._histogram_buffer.flush()

    def read_snapshot(self) -> Snapshot:
        """Return the current snapshot, at most a tenth of a second old."""
        now = self.read_clock()
        latest = self._latest
        if latest is None or now - latest[0] >= _SNAPSHOT_SECONDS:
            latest = self._latest = now, self._state.snapshot()
            if latest[1].events_dropped > self._events_dropped:
                self._events_dropped = latest[1].events_dropped
                self.time_sums.forget_open()
                self.runs.forget_open()
        return latest[1]

    def read_budgets(self) -> BudgetReport:
        """Return the budgets, at most a tenth of a second old."""
        kept = self._latest_budgets
        if kept is None or self.read_clock() - kept[0] >= _SNAPSHOT_SECONDS:
            latest = NO_BUDGETS
            try:
                latest = self._state.budgets()
                self._start_decision_counters(latest)
            finally:
                # If the ledger can't be used, it is not tried again in this collection.
                self._latest_budgets = self.read_clock(), latest
            return latest
        return kept[1]

    def _start_decision_counters(self, report: BudgetReport) -> None:
        """Start the counters of budget decisions at 0, so that alerts see their first increase."""
        decisions = self.counters[catalogue.BUDGET_DECISIONS]
        stated = [(status.key, status.action) for status in report.statuses]
        stated += [(AccountKey(it.scope, it.key or "", it.unit, it.period), it.action) for it in report.call_budgets]
        for account, action in stated:
            scope, _, unit, period = account
            budget = scope.value, label_budget(self.cardinality_limit, account), period.value, unit.value
            decisions.start_at_zero(*budget, action.value)
            if action is Action.DOWNGRADE:  # at the end of its ladder
                decisions.start_at_zero(*budget, Action.REJECT.value)
