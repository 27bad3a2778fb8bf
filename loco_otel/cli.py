"""The `loco-otel` command: what is installed, and whether the calls of this environment's programs are scheduled."""

import logging
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, version
from typing import NamedTuple

import click
from rich.console import Console

from loco_otel._version import __version__
from loco_otel.api import _instrumentors
from loco_otel.errors import ConfigurationError
from loco_otel.patching import LocoInstrumentor
from loco_otel.patching.versions import installed_version
from loco_otel.settings import Settings

_PACKAGES = ("opentelemetry-api", "opentelemetry-sdk", "opentelemetry-instrumentation", "opentelemetry-distro")


class Finding(NamedTuple):
    """What was found of one SDK."""

    sdk: str
    version: str | None
    """None where it is not installed."""
    methods: int = 0
    """How many of its methods were patched."""
    fault: str = ""
    """Why it is not patched; empty where it is."""
    supported: bool = True
    """Whether its version is one of those that can be patched; others are left alone."""

    @property
    def patched(self) -> bool:
        """Whether its calls pass the scheduler."""
        return self.version is not None and not self.fault

    def __str__(self) -> str:
        if self.version is None:
            return "not installed"
        if self.fault:
            return f"NOT patched: {self.fault}"
        return f"patched, {self.methods} methods"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Load-aware scheduling of LLM calls inside Python programs, visible in OpenTelemetry.

    Nothing here is needed to run a program: opentelemetry-instrument python app.py
    """


@main.command("version")
def show_version() -> None:
    """Print the versions of loco-otel, Python and OpenTelemetry."""
    rows = [("loco-otel", __version__), ("Python", platform.python_version())]
    rows += [(package, _version(package) or "not installed") for package in _PACKAGES]
    for name, number in rows:
        click.echo(f"{name} {number}")


@main.command()
@click.pass_context
def doctor(context: click.Context) -> None:
    """Tell whether LLM calls would be scheduled here, and if not, why.

    Patches the SDKs in this process, as opentelemetry-instrument does in yours, and looks whether it worked. Exits with
    1 when calls would go unscheduled.
    """
    settings, bad_setting = None, ""
    try:
        settings = Settings.load()
    except ConfigurationError as error:
        bad_setting = str(error)
    findings = [_examine(entry, settings) for entry in _instrumentors()]

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"loco-otel {__version__}, Python {platform.python_version()}", style="bold")
    _head(console, "SDKs")
    rows = [(finding.sdk, finding.version or "-", str(finding)) for finding in findings]
    for finding, line in zip(findings, _aligned(rows), strict=True):
        style = "red" if finding.fault else "green" if finding.patched else "dim"
        console.print(line, style=style, markup=False)
    if settings is not None:
        _head(console, "Settings: value, and where it comes from")
        for line in _aligned(settings.rows()):
            console.print(line, markup=False)
    _head(console, "Notes")
    if bad_setting:
        console.print(f"  error: {bad_setting}", style="red", markup=False)
    for warning in _warnings(settings, findings):
        console.print(f"  warning: {warning}", style="yellow", markup=False)
    console.print("  Limits are per process: several workers together make several times as many calls.")

    console.print()
    if settings is None or (trouble := _trouble(findings)):
        console.print(f"Not well: {bad_setting or trouble}", style="bold red", markup=False)
        context.exit(1)
    names = ", ".join(finding.sdk for finding in findings if finding.patched)
    way = "observed" if settings.capacity is None else f"scheduled, at most {settings.capacity} at a time"
    console.print(f"Well: the calls of {names} are {way}", style="bold green")


def _warnings(settings: Settings | None, findings: Iterable[Finding]) -> Iterator[str]:
    """Name what may not be meant so."""
    if settings is not None:
        yield from settings.unknown
        if settings.capacity is None:
            yield "LOCO_CAPACITY is not set: calls are observed, and none waits"
    for finding in findings:
        if not finding.supported:
            yield f"{finding.sdk} {finding.version} is left alone, its calls go unscheduled"


def _trouble(findings: Iterable[Finding]) -> str:
    """Say which calls would go unscheduled; nothing where all is well."""
    installed = [finding for finding in findings if finding.version is not None]
    if not installed:
        return "none of the SDKs is installed, so there is nothing to schedule"
    if not any(finding.patched for finding in installed):
        return "no call is scheduled"
    left_out = [finding.sdk for finding in installed if finding.fault and finding.supported]
    return f"the calls of {', '.join(left_out)} go unscheduled" if left_out else ""


def _examine(entry: EntryPoint, settings: Settings | None) -> Finding:
    """Find out whether one SDK's calls would be scheduled, by patching it; then take that back."""
    instrumentor: LocoInstrumentor = entry.load()()
    sdk = instrumentor.sdk
    installed = installed_version(sdk)
    if installed is None:
        return Finding(sdk, None)
    finding = Finding(sdk, installed)
    if fault := _switched_off(entry, settings):
        return finding._replace(fault=fault)
    if not instrumentor.supports(installed):
        fault = f"version not supported, it takes {instrumentor.requires}"
        return finding._replace(fault=fault, supported=False)
    patched, reason = _patch(instrumentor)
    wanted = [str(target) for target in instrumentor.targets()]
    if missing := [name for name in wanted if name not in patched]:
        return finding._replace(fault=reason or f"not patched: {', '.join(missing)}")
    return finding._replace(methods=len(patched))


def _switched_off(entry: EntryPoint, settings: Settings | None) -> str:
    """Say by which setting one SDK is left out; nothing where it is not."""
    if settings is None:
        return "a setting cannot be used, see below"
    if not settings.enabled:
        return "LOCO_ENABLED is false"
    if not settings.disabled_instrumentations.isdisjoint({"*", entry.name}):
        return f"{entry.name} is disabled by OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
    return ""


def _patch(instrumentor: LocoInstrumentor) -> tuple[tuple[str, ...], str]:
    """Patch an SDK, look, and undo it unless it was patched before; return what was patched, and what went wrong."""
    before = instrumentor.is_instrumented_by_opentelemetry
    reason = ""
    with _log() as records:
        if not before:
            # As the launcher does, which looks at our distribution's version only.
            instrumentor.instrument(skip_dep_check=True)
        try:
            import_module(instrumentor.targets()[0].module)
        except Exception as error:
            reason = f"it cannot be imported: {_told(error)}"
        patched = instrumentor.patched()
        if not before and instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()
    errors = [record.exc_info[1] for record in records if record.levelno >= logging.ERROR and record.exc_info]
    if errors and errors[0] is not None:
        reason = f"patching failed: {_told(errors[0])}"
    return patched, reason


class _Collector(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def _log() -> Iterator[list[logging.LogRecord]]:
    """Collect what loco-otel logs, instead of logging it."""
    handler = _Collector()
    logger = logging.getLogger("loco_otel")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield handler.records
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _told(error: BaseException) -> str:
    """Return an exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _head(console: Console, text: str) -> None:
    console.print(f"\n{text}", style="bold")


def _aligned(rows: Iterable[tuple[str, str, str]]) -> list[str]:
    """Return rows of three as lines with straight columns."""
    rows = list(rows)
    first, second = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    return [f"  {row[0]:{first}}  {row[1]:{second}}  {row[2]}" for row in rows]


if __name__ == "__main__":
    main(prog_name="loco-otel")
