"""The public functions of the library."""

import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint

from loco_otel._budgets.stops import Stop
from loco_otel._engine.run_list import list_runs
from loco_otel._introspection.dump import Dump
from loco_otel._runtime import entry_points, faults, process
from loco_otel._runtime.agent_readers import replace_surrogates
from loco_otel._runtime.identity import Identity, resolve_identity, validate_agent_name
from loco_otel._runtime.runtime import Runtime
from loco_otel._waiting.slot import Slot
from loco_otel.errors import ConfigurationError
from loco_otel.events import DEFAULT_RESOURCE, MILLI, BudgetEvent, Priority, Request, Snapshot
from loco_otel.money import BudgetStatus, Scope, Totals

_logger = logging.getLogger("loco_otel")

_MAX_WEIGHT = 1e9
"""Up to this weight sums of milli-weights are exact, and scores finite."""


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
    """Hold a slot for the duration of a `with` or `async with` body.

    The slot is taken from the scheduler that the patched SDKs use. Patched calls in the body run under it.

    Args:
        agent: the agent's name; None identifies it as for a patched call (`as_agent`, the current span, the settings).
        weight: the size of the work; 1.0 is a small call.
        timeout: seconds to wait, 0 takes a free slot or fails at once; None means `LOCO_ACQUIRE_TIMEOUT`.
        tenant: the tenant of the agent.
        task_type: the kind of work, for spans.
        labels: further values for programs that read events.
        resources: names of configured resources, of each of which a slot is acquired: all at once, or none.

    Raises:
        ValueError: agent, weight, timeout or resources are invalid.
        ConfigurationError: a setting is invalid.
        AcquireRejectedError: on entry: a timeout, too many waiters, or shutdown, each as a subclass.

    Example:
        >>> with slot('analyst', weight=2.0):
        ...     snapshot().resources[0].active
        1

    """
    runtime = process.get_runtime()
    if not 0 < weight <= _MAX_WEIGHT:
        raise ValueError(f"weight must be a number above 0 and at most {_MAX_WEIGHT:.0f}, not {weight!r}")
    if timeout is None:
        timeout = runtime.settings.acquire_timeout
    elif not timeout >= 0:
        raise ValueError(f"timeout must be a number of seconds of at least 0, not {timeout!r}")
    caller = _identify_caller(runtime)
    if agent is None:
        agent, tenant = caller.agent, tenant or caller.tenant
    else:
        agent = validate_agent_name(agent)
    runtime.detect_otel_sdk()
    request = Request(
        agent,
        MILLI if weight == 1 else max(1, round(weight * MILLI)),  # the default is one int for all slots
        runtime.resolve_resource_names(resources),
        timeout,
        False,  # admission
        replace_surrogates(tenant),
        replace_surrogates(task_type),
        labels=labels,
        run=caller.run,
        priority=caller.priority or Priority.NORMAL,
        deadline=caller.deadline,
        session=caller.session,
        workflow=caller.workflow,
    )
    return Slot(runtime, request)


def _identify_caller(runtime: Runtime) -> Identity:
    try:
        return resolve_identity(runtime.default_agent)
    except Exception:
        faults.log_fault("identifying the caller of slot()")
        return Identity(runtime.default_agent)


def snapshot() -> Snapshot:
    """Return the state of every resource and agent: holders, waiters and load.

    Example:
        >>> with slot('analyst'):
        ...     [resource.resource for resource in snapshot().resources]
        ['llm_api']

    """
    return process.get_runtime().engine.take_snapshot()


def dump(tickets: int = 100) -> Dump:
    """Return the state of every resource, request by request. Print it, or call `as_dict()`.

    Args:
        tickets: the most requests listed per resource, and the most runs; the dump counts the other requests.

    Raises:
        ValueError: `tickets` is negative.

    Example:
        >>> with slot('analyst'):
        ...     sorted(dump().as_dict())
        ['resources', 'runs']

    """
    if tickets < 0:
        raise ValueError(f"tickets must be at least 0, not {tickets!r}")
    engine = process.get_runtime().engine
    return Dump(engine.take_dump(tickets), list_runs(engine.list_tickets(), engine.read_clock())[:tickets])


def spend(by: str | Sequence[str] = ("agent", "model")) -> tuple[Totals, ...]:
    """Return the totals of all ended calls, grouped by fields, in descending order of USD.

    With a ledger these are the totals of all processes that share it, otherwise of this process. If no budget,
    limit or OpenTelemetry SDK needs the cost of calls, they are counted from the first call of this function on, or
    from the start with `LOCO_COUNT_SPEND`. Totals by run are counted with limits or budgets of runs, with
    `LOCO_COUNT_SPEND`, or from the first call with `run` on.

    Args:
        by: agent, tenant, team, workflow, session, provider, model or run; a sequence, or comma-separated names. With
            run only the calls of runs are counted.

    Raises:
        ValueError: `by` has another field.
        LedgerError: the ledger is unavailable.

    Example:
        >>> spend('agent')
        ()

    """
    runtime = process.get_runtime()
    fields = tuple([name.strip() for name in by.split(",")] if isinstance(by, str) else by)
    if runtime.budgets.start_counting(by_run="run" in fields) and not runtime.engine.observed:
        _logger.info("spending is counted from now on (set LOCO_COUNT_SPEND=true to count from the start)")
    return runtime.budgets.compute_totals(fields)


def budgets() -> tuple[BudgetStatus, ...]:
    """Return the status of each budget: its limit, and the amounts spent and reserved in this period.

    Raises:
        LedgerError: the ledger is unavailable.

    Example:
        >>> budgets()  # no budget is set
        ()

    """
    return process.get_runtime().budgets.read_statuses()


def on_budget(callback: Callable[[BudgetEvent], object]) -> Callable[[], None]:
    """Register a callback for calls without room in a budget, and for reached thresholds.

    It runs synchronously in the thread of the call, and must not block. An exception that it raises is logged.

    Returns:
        A function that unregisters the callback.

    Example:
        >>> stop = on_budget(print)
        >>> stop()

    """
    callbacks = process.get_runtime().budgets.callbacks
    callbacks.append(callback)

    def stop() -> None:
        if callback in callbacks:
            callbacks.remove(callback)

    return stop


def stop(
    *,
    run: str | None = None,
    session: str | None = None,
    agent: str | None = None,
    tenant: str | None = None,
    abort_streams: bool = False,
) -> int:
    """Refuse the calls of a run, session, agent or tenant from now on, and turn away those that wait.

    Calls that have been sent continue, unless `abort_streams` closes their streams. Idempotent. `LOCO_STOP_FILE` does
    the same from outside the program. While `LOCO_MODE` is `observe`, nothing is refused, but counted.

    Args:
        run: the run's id. Exactly one of the four is required.
        session: the session's id.
        agent: the agent's name.
        tenant: the tenant's name.
        abort_streams: close open streams: their readers get the same error, at their next chunk at the latest.

    Returns:
        The number of waiting calls that were turned away. They and later calls raise `StoppedError`.

    Raises:
        ValueError: none of the four is given, or several are, or it is not a non-empty string.

    Example:
        >>> from loco_otel.errors import StoppedError
        >>> stop(agent='crawler')
        0
        >>> try:
        ...     with slot('crawler'):
        ...         pass
        ... except StoppedError as error:
        ...     print(error.scope, error.key)
        agent crawler
        >>> resume(agent='crawler')
        True

    """
    stopped = _make_stop({"run": run, "session": session, "agent": agent, "tenant": tenant})
    return process.get_runtime().governor.stop(stopped, abort_streams=abort_streams)


def resume(
    *, run: str | None = None, session: str | None = None, agent: str | None = None, tenant: str | None = None
) -> bool:
    """Undo `stop` for a run, session, agent or tenant. What `LOCO_STOP_FILE` names stays stopped.

    Returns:
        False if it was not stopped.

    Raises:
        ValueError: none of the four is given, or several are, or it is not a non-empty string.

    Example:
        >>> resume(run='r-1')
        False

    """
    stopped = _make_stop({"run": run, "session": session, "agent": agent, "tenant": tenant})
    return process.get_runtime().governor.resume(stopped)


def _make_stop(names: Mapping[str, str | None]) -> Stop:
    given = {name: value for name, value in names.items() if value is not None}
    if len(given) != 1:
        raise ValueError(f"exactly one of {', '.join(names)} must be given, not {', '.join(given) or 'none'}")
    ((name, value),) = given.items()
    if not (isinstance(value, str) and value):
        raise ValueError(f"{name} must be a non-empty string, not {value!r}")
    return Stop(Scope(name), str(replace_surrogates(value)))


def install() -> tuple[str, ...]:
    """Patch the installed SDKs where `opentelemetry-instrument` can't run: notebooks, workers, tests.

    Returns:
        The names of the active instrumentations, including those that become active when their SDK is imported. SDKs
            that are not installed, have an unsupported version, or are in `OTEL_PYTHON_DISABLED_INSTRUMENTATIONS` are
            omitted.

    Raises:
        ConfigurationError: a setting is invalid.

    Example:
        >>> names = install()
        >>> uninstall()

    """
    settings = process.get_runtime().settings
    if not settings.enabled:
        _logger.info("no SDK is patched, as LOCO_ENABLED is false (set it to true to schedule calls)")
        return ()
    left_out = settings.disabled_instrumentations
    chosen = [entry for entry in _find_instrumentors() if "*" not in left_out and entry.name not in left_out]
    active = []
    for entry in chosen:
        instrumentor = entry.load()()
        if not instrumentor.is_instrumented_by_opentelemetry:
            # Our instrumentors check for their SDK. OpenTelemetry would log an ERROR for each that is not installed.
            instrumentor.instrument(skip_dep_check=True)
        if instrumentor.is_instrumented_by_opentelemetry:
            active.append(entry.name)
    return tuple(active)


def pre_instrument() -> None:
    """Patch before `opentelemetry-instrument`, which calls this, loads any instrumentor.

    Other instrumentors then wrap our patches in any load order. `OTEL_PYTHON_DISABLED_INSTRUMENTATIONS` is applied
    here, as the launcher applies it to instrumentors only. Never raises, as that would stop all instrumentors.

    Example:
        >>> pre_instrument()
        >>> uninstall()

    """
    try:
        left_out = process.get_runtime().settings.disabled_instrumentations
    except ConfigurationError:
        return  # each instrumentor logs the error
    if "*" in left_out:
        return
    for entry in _find_instrumentors():
        if entry.name not in left_out:
            try:
                entry.load()().instrument_early()
            except Exception:
                faults.log_fault(f"patching early with {entry.name}")


def uninstall() -> None:
    """Remove all patches. Calls in flight end normally.

    Example:
        >>> names = install()
        >>> uninstall()

    """
    for entry in _find_instrumentors():
        instrumentor = entry.load()()
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()


def _find_instrumentors() -> list[EntryPoint]:
    entry_points.scan_entry_points()  # a notebook may have installed an SDK since
    found = entry_points.list_entry_points(entry_points.INSTRUMENTORS)
    return [entry for entry in found if entry.name.startswith("loco_")]
