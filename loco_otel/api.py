"""The library: what a program may call by itself."""

import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points

from loco_otel._introspection.dump import Dump
from loco_otel._runtime import process
from loco_otel._runtime.identity import Identity, resolve_identity, validate_agent_name
from loco_otel._waiting.slot import Slot
from loco_otel.errors import ConfigurationError
from loco_otel.events import DEFAULT_RESOURCE, MILLI, BudgetEvent, Request, Snapshot
from loco_otel.money import BudgetStatus, Totals

_logger = logging.getLogger("loco_otel")

_MAX_WEIGHT = 1e9
"""So that sums of milli-weights are exact, and never beyond what the score can be computed from."""


def slot(
    agent: str | None = None,
    *,
    weight: float = 1.0,
    timeout: float | None = None,
    tenant: str | None = None,
    task_type: str = "default",
    labels: Mapping[str, str] | None = None,
    resources: Sequence[str] = (DEFAULT_RESOURCE,),
) -> Slot:
    """Hold a slot for the length of a `with` or `async with` body.

    It comes from the same scheduler as the patched SDKs' slots; patched calls in the body run under it.

    Args:
        agent: who asks; when None as for a patched call (`as_agent`, the current span, the settings).
        weight: how heavy the work is; 1.0 is a small call.
        timeout: seconds to wait for it, 0 takes a free slot or none; `LOCO_ACQUIRE_TIMEOUT` when None.
        tenant: for whom the agent works.
        task_type: what kind of work it is, for spans.
        labels: more about it, for programs that read events.
        resources: names of those in the settings of which it needs a slot each: all in one step, or none.

    Raises:
        ValueError: agent, weight, timeout or resources cannot be used.
        ConfigurationError: a setting is wrong.
        AcquireRejectedError: on entering: a timeout, too many waiters, or shutdown; the subclass says which.

    """
    runtime = process.get_runtime()
    if not 0 < weight <= _MAX_WEIGHT:
        raise ValueError(f"weight must be a number above 0 and at most {_MAX_WEIGHT:.0f}, not {weight!r}")
    if timeout is None:
        timeout = runtime.settings.acquire_timeout
    elif not timeout >= 0:
        raise ValueError(f"timeout must be a number of seconds of at least 0, not {timeout!r}")
    if agent is None:
        agent, known_tenant = _identify_caller(runtime)[:2]
        tenant = tenant or known_tenant
    else:
        validate_agent_name(agent)
    runtime.detect_otel_sdk()
    request = Request(
        agent,
        max(1, round(weight * MILLI)),
        runtime.resolve_resource_names(resources),
        timeout,
        False,  # admission
        tenant,
        task_type,
        labels=labels,
    )
    return Slot(runtime, request)


def _identify_caller(runtime: process.Runtime) -> Identity:
    try:
        return resolve_identity(runtime.default_agent)
    except Exception:
        process.log_fault("telling who calls")
        return Identity(runtime.default_agent)


def snapshot() -> Snapshot:
    """Tell how the scheduler stands: per resource and agent what holds, what waits, and its load."""
    return process.get_runtime().engine.take_snapshot()


def dump(tickets: int = 100) -> Dump:
    """Tell how the scheduler stands, request by request; `print` it, or take `as_dict()`.

    Args:
        tickets: at most so many of each resource; how many are left out is told.

    Raises:
        ValueError: it is negative.

    """
    if tickets < 0:
        raise ValueError(f"tickets must be at least 0, not {tickets!r}")
    return Dump(process.get_runtime().engine.take_dump(tickets))


def spend(by: str | Sequence[str] = ("agent", "model")) -> tuple[Totals, ...]:
    """Tell what all calls that have ended took, by whom they are charged to; most USD first.

    With a ledger file that is what all processes that share it have ever spent, else what this process has. Where
    nothing else needs to know what calls take, neither a budget nor a limit nor an OpenTelemetry SDK, they are counted
    from the first call of this function on, or from the start with `LOCO_COUNT_SPEND`.

    Args:
        by: of agent, tenant, team, workflow, session, provider and model; a list, or names with commas between.

    Raises:
        ValueError: it is by something else.
        LedgerError: the ledger's file can't be used now.

    """
    runtime = process.get_runtime()
    fields = tuple([name.strip() for name in by.split(",")] if isinstance(by, str) else by)
    if runtime.budgets.start_counting() and not runtime.engine.observed:
        _logger.info("what calls take is counted from now on; LOCO_COUNT_SPEND=true counts it from the start")
    return runtime.budgets.compute_totals(fields)


def budgets() -> tuple[BudgetStatus, ...]:
    """Tell how each budget stands: its limit, and what is spent and reserved in this period.

    Raises:
        LedgerError: the ledger's file can't be used now.

    """
    return process.get_runtime().budgets.read_statuses()


def on_budget(callback: Callable[[BudgetEvent], object]) -> Callable[[], None]:
    """Call a function when a budget has no room for a call, or reaches a threshold.

    It is called at once, in the thread of that call, and must not block; one that raises is logged.

    Returns:
        What ends that.

    """
    callbacks = process.get_runtime().budgets.callbacks
    callbacks.append(callback)

    def stop() -> None:
        if callback in callbacks:
            callbacks.remove(callback)

    return stop


def install() -> tuple[str, ...]:
    """Patch the SDKs that are there, where `opentelemetry-instrument` can't go: notebooks, workers, tests.

    Returns:
        The names of the instrumentations that are active, or will be once their SDK is imported: without those whose
        SDK is not installed or of a version that cannot be patched, and without those named in
        `OTEL_PYTHON_DISABLED_INSTRUMENTATIONS`.

    Raises:
        ConfigurationError: a setting is wrong.

    """
    settings = process.get_runtime().settings
    if not settings.enabled:
        _logger.info("LOCO_ENABLED is false: nothing is patched")
        return ()
    left_out = settings.disabled_instrumentations
    chosen = [entry for entry in _find_instrumentors() if "*" not in left_out and entry.name not in left_out]
    active = []
    for entry in chosen:
        instrumentor = entry.load()()
        if not instrumentor.is_instrumented_by_opentelemetry:
            # Ours look for their SDK themselves; OpenTelemetry would log an ERROR for each that is not installed.
            instrumentor.instrument(skip_dep_check=True)
        if instrumentor.is_instrumented_by_opentelemetry:
            active.append(entry.name)
    return tuple(active)


def pre_instrument() -> None:
    """Patch before `opentelemetry-instrument` loads any instrumentor; it calls this itself.

    Others then wrap what is ours, whatever order they are loaded in. It honours `OTEL_PYTHON_DISABLED_INSTRUMENTATIONS`
    here because the launcher does so only for instrumentors. Never raises: that would stop all of them.
    """
    try:
        left_out = process.get_runtime().settings.disabled_instrumentations
    except ConfigurationError:
        return  # each instrumentor says so
    if "*" in left_out:
        return
    for entry in _find_instrumentors():
        if entry.name not in left_out:
            try:
                entry.load()().instrument_early()
            except Exception:
                process.log_fault(f"patching early with {entry.name}")


def uninstall() -> None:
    """Take all patches off again; calls under way end as they would have."""
    for entry in _find_instrumentors():
        instrumentor = entry.load()()
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()


def _find_instrumentors() -> list[EntryPoint]:
    group = entry_points(group="opentelemetry_instrumentor")
    return sorted((entry for entry in group if entry.name.startswith("loco_")), key=lambda entry: entry.name)
