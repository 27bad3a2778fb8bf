"""Finds everything out, and judges it."""

import platform
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version

from loco_otel._budgets.ledger_client import open_ledger
from loco_otel._config.engine_rules import MEMORY
from loco_otel._config.settings import Settings
from loco_otel._version import __version__
from loco_otel.api import _find_instrumentors
from loco_otel.cli.doctor import others
from loco_otel.cli.doctor.engine import check_engine, check_ledger
from loco_otel.cli.doctor.exporters import PROMETHEUS, probe_exporters
from loco_otel.cli.doctor.frameworks import examine_frameworks
from loco_otel.cli.doctor.hooks import patch_for_inspection, refresh_hooks
from loco_otel.cli.doctor.report import AgentFramework, Exporter, Report, Sdk, WorkerProcesses, join_names
from loco_otel.cli.doctor.workers import detect_workers
from loco_otel.errors import ConfigurationError

_PACKAGES = ("opentelemetry-api", "opentelemetry-sdk", "opentelemetry-instrumentation", "opentelemetry-distro")


def collect_versions() -> dict[str, str | None]:
    """Return the versions of loco-otel, Python and OpenTelemetry; None where something is not installed."""
    return {
        "loco-otel": __version__,
        "Python": platform.python_version(),
        **{package: _find_version(package) for package in _PACKAGES},
    }


def examine_environment(environ: Mapping[str, str], *, imports: bool = False) -> Report:
    """Examine whether calls would be scheduled in this environment.

    An SDK with other instrumentors is imported and patched in this process, by them too. Our patches are removed;
    parts of theirs may remain.

    Args:
        environ: the environment variables.
        imports: whether to import and patch each SDK, and to test the reader of each agent framework.

    """
    settings, bad_setting = None, ""
    try:
        settings = Settings.load(environ)
        open_ledger(settings).close()
    except ConfigurationError as error:
        settings, bad_setting = None, str(error)
    sdks = tuple(_examine_sdk(entry, settings, environ, imports=imports) for entry in _find_instrumentors())
    frameworks = examine_frameworks(settings, imports=imports)
    ways_out = tuple(probe_exporters(environ))
    division = detect_workers(environ, settings.capacity if settings else None)
    errors = tuple(
        filter(
            None, [bad_setting, *_find_launcher_errors(ways_out), "" if bad_setting else _describe_unscheduled(sdks)]
        )
    )
    early = bool(entry_points(group="opentelemetry_pre_instrument", name="loco"))
    warnings = [*_check_settings(settings, environ), *check_engine(settings), *check_ledger(settings)]
    warnings += [*_check_sdks(sdks, early=early)]
    warnings += _check_frameworks(frameworks)
    warnings += [*_check_exporters(ways_out), *_check_workers(division, ways_out, settings)]
    return Report(
        collect_versions(),
        early,
        sdks,
        frameworks,
        ways_out,
        division,
        settings.rows() if settings else (),
        errors,
        tuple(warnings),
        _format_verdict(errors, sdks, settings),
    )


def _examine_sdk(entry: EntryPoint, settings: Settings | None, environ: Mapping[str, str], *, imports: bool) -> Sdk:
    left_out = settings.disabled_instrumentations if settings else frozenset()
    # Others' instrumentors of an HTTP client make no inference spans, and wrap other methods.
    is_http_client = entry.load().needs_hosts
    imports = imports or (not is_http_client and others.has_instrumentors(entry.load().sdk, left_out))
    with ExitStack() as stack:
        sdk, instrumentor = stack.enter_context(patch_for_inspection(entry, settings, imports=imports))
        if sdk.version is None:
            return sdk
        if is_http_client:
            return sdk._replace(inference_span=(others.OURS,)) if sdk.is_patched else sdk
        # Theirs after ours, as the launcher does it.
        sdk = sdk._replace(instrumentors=stack.enter_context(others.load_instrumentors(sdk.sdk, left_out)))
        sdk = sdk._replace(wrapped=others.find_wrapped_methods(sdk.sdk))
        if not sdk.is_patched:
            return sdk
        if sdk.imported:
            sdk = refresh_hooks(sdk, instrumentor)
        return sdk._replace(inference_span=others.find_span_sources(sdk, environ))


def _find_launcher_errors(ways_out: tuple[Exporter, ...]) -> Iterator[str]:
    for way in ways_out:
        if way.stops_launcher:
            which = f"{way.exporter} at {way.address}" if way.address else way.exporter
            yield (
                f"the exporter of {way.signal} ({which}) cannot start, {way.finding}:"
                " under opentelemetry-instrument nothing is patched then, neither by us nor by others"
            )


def _describe_unscheduled(sdks: tuple[Sdk, ...]) -> str:
    """Say which calls would go unscheduled; nothing where all is well."""
    installed = [sdk for sdk in sdks if sdk.version is not None and not sdk.off]
    if not installed:
        return "none of the SDKs is installed, so there is nothing to schedule"
    if not any(sdk.is_patched for sdk in installed):
        return "no call is scheduled"
    left_out = join_names(sdk for sdk in installed if sdk.fault and sdk.supported)
    return f"the calls of {left_out} go unscheduled" if left_out else ""


def _check_settings(settings: Settings | None, environ: Mapping[str, str]) -> Iterator[str]:
    if settings is not None:
        yield from settings.unknown
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        yield "OTEL_SDK_DISABLED is true: calls are scheduled, and nothing is told of them"


def _check_sdks(sdks: tuple[Sdk, ...], *, early: bool) -> Iterator[str]:
    for sdk in sdks:
        if sdk.version is not None and not sdk.supported:
            yield f"{sdk.sdk} {sdk.version} is left alone, its calls go unscheduled"
        for other in sdk.instrumentors:
            if other.fault:
                yield f"{other.distribution} {other.version} does nothing for {sdk.sdk}: {other.fault}"
        if len(sdk.inference_span) > 1:
            both = " and ".join(sdk.inference_span)
            yield f"each call of {sdk.sdk} has {len(sdk.inference_span)} inference spans, by {both}: tokens count twice"
            if sdk.sdk in sdk.inference_span:
                yield f"{sdk.sdk.upper()}_OPEN_TELEMETRY=false turns off the one that {sdk.sdk} makes itself"
        if sdk.instrumentors and not early:
            yield f"others may patch {sdk.sdk} before us: the entry point opentelemetry_pre_instrument is missing"


def _check_frameworks(frameworks: tuple[AgentFramework, ...]) -> Iterator[str]:
    for framework in frameworks:
        if framework.tested and framework.fault:
            yield (
                f"no agent is read from {framework.framework} ({framework.fault}): its calls queue under the name of"
                " the current span, or else LOCO_AGENT_ID"
            )


def _check_exporters(ways_out: tuple[Exporter, ...]) -> Iterator[str]:
    unheard = [way for way in ways_out if way.works is False and not way.stops_launcher]
    for address in dict.fromkeys(way.address for way in unheard):
        signals = " and ".join(way.signal for way in unheard if way.address == address)
        yield f"{signals} to {address} will be tried again for a while, then lost: nobody answers there; calls go on"


def _check_workers(
    division: WorkerProcesses, ways_out: tuple[Exporter, ...], settings: Settings | None
) -> Iterator[str]:
    if division.processes is None or division.processes == 1:
        return
    several = f"{division.origin} makes {division.processes} processes"
    if division.calls_at_once is not None and (settings is None or settings.engine == MEMORY):
        yield f"{several}, each with limits of its own: together at most {division.calls_at_once} calls at a time"
    if settings is not None and settings.budgets and settings.ledger_location is None:
        yield f"{several}, each with budgets of its own: LOCO_LEDGER names a file or a server in which they share them"
    if any(way.exporter == PROMETHEUS for way in ways_out):
        yield (
            f"{several}, and one alone can have the Prometheus port: workers that start anew (uvicorn) are not"
            " patched then, those that are forked (gunicorn) serve no metrics; send them with otlp"
        )


def _format_verdict(errors: tuple[str, ...], sdks: tuple[Sdk, ...], settings: Settings | None) -> str:
    if settings is None or errors:
        return f"Not well: {errors[0]}"
    most = "as many" if settings.capacity is None else f"at most {settings.capacity}"
    limit = " as their providers take" if settings.capacity is None else ""
    return (
        f"Well: the calls of {join_names(sdk for sdk in sdks if sdk.is_patched)} are scheduled, {most} at a time{limit}"
    )


def _find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
