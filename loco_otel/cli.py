"""The `loco-otel` command."""

import platform
import sys
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import NamedTuple

import click
from opentelemetry.instrumentation.dependencies import get_dependency_conflicts
from rich.console import Console
from rich.table import Table

from loco_otel._version import __version__
from loco_otel.errors import ConfigurationError
from loco_otel.patching import LocoInstrumentor
from loco_otel.settings import Settings


class Finding(NamedTuple):
    """What became of one SDK."""

    sdk: str
    version: str
    scheduled: bool
    installed: bool
    detail: str


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Load-aware scheduling of LLM calls: see what is in force."""


@main.command("version")
def show_version() -> None:
    """Show the versions of loco-otel, Python and OpenTelemetry."""
    click.echo(f"loco-otel {__version__}")
    click.echo(f"Python {platform.python_version()}")
    for distribution in ("opentelemetry-sdk", "opentelemetry-instrumentation"):
        click.echo(f"{distribution} {version(distribution)}")


@main.command()
def doctor() -> None:
    """Show which SDKs are found and patched, and the settings in force.

    Exits with status 1 when calls would go unscheduled.
    """
    # Piped, nobody's screen is the limit, and a path that is cut in two can't be searched for.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    try:
        settings = Settings.load()
    except ConfigurationError as error:
        console.print(f"[red]Bad setting:[/red] {error}", markup=True)
        console.print("loco-otel stays inactive: calls would go unscheduled.")
        sys.exit(1)
    findings = [_examine(entry, settings) for entry in _instrumentors()]
    console.print(f"loco-otel {__version__}, Python {platform.python_version()}\n")
    console.print(_sdk_table(findings))
    console.print(_settings_table(settings))
    for warning in _warnings(settings):
        console.print(f"[yellow]Note:[/yellow] {warning}")
    installed = [finding for finding in findings if finding.installed]
    if not installed:
        console.print("[red]No supported SDK is installed:[/red] there is nothing to schedule.")
    if not installed or not all(finding.scheduled for finding in installed):
        console.print("[red]Calls would go unscheduled.[/red]")
        sys.exit(1)
    console.print("[green]Calls are scheduled.[/green]")


def _instrumentors() -> list[EntryPoint]:
    group = entry_points(group="opentelemetry_instrumentor")
    return sorted((entry for entry in group if entry.name.startswith("loco_")), key=lambda entry: entry.name)


def _examine(entry: EntryPoint, settings: Settings) -> Finding:
    """Patch one SDK in this process, as the launcher would in the program's, and look at what came of it."""
    instrumentor: LocoInstrumentor = entry.load()()
    sdk = instrumentor.sdk
    try:
        found = version(sdk)
    except PackageNotFoundError:
        return Finding(sdk, "-", scheduled=False, installed=False, detail="not installed")

    def unscheduled(detail: str) -> Finding:
        return Finding(sdk, found, scheduled=False, installed=True, detail=detail)

    obstacle = _obstacle(entry, instrumentor, settings)
    if obstacle is not None:
        return unscheduled(obstacle)
    instrumentor.instrument()
    try:
        __import__(instrumentor.targets()[0].module)
        patched = instrumentor.patched()
    except ImportError as error:
        return unscheduled(f"cannot be imported: {error}")
    finally:
        instrumentor.uninstrument()
    if len(patched) < len(instrumentor.targets()):
        return unscheduled("cannot be patched; the log says why")
    return Finding(sdk, found, scheduled=True, installed=True, detail=f"{len(patched)} methods patched")


def _obstacle(entry: EntryPoint, instrumentor: LocoInstrumentor, settings: Settings) -> str | None:
    """Say what keeps an installed SDK from being patched at all."""
    if not settings.enabled:
        return "LOCO_ENABLED is false"
    if settings.disabled_instrumentations & {"*", entry.name}:
        return "disabled by OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
    if get_dependency_conflicts(instrumentor.instrumentation_dependencies()) is not None:
        return f"needs {instrumentor.requires}"
    return None


def _sdk_table(findings: list[Finding]) -> Table:
    table = Table("SDK", "version", "scheduled", "", title="SDKs", title_justify="left")
    for finding in findings:
        scheduled = "[green]yes[/green]" if finding.scheduled else "[red]no[/red]" if finding.installed else "-"
        table.add_row(finding.sdk, finding.version, scheduled, finding.detail)
    return table


def _settings_table(settings: Settings) -> Table:
    table = Table("key", "value", "from", title="Settings", title_justify="left")
    for row in settings.rows():
        table.add_row(row.key, row.value, row.origin)
    return table


def _warnings(settings: Settings) -> list[str]:
    warnings = list(settings.unknown)
    if settings.capacity is None:
        warnings.append("LOCO_CAPACITY is not set: calls are observed, and none waits.")
    else:
        warnings.append(
            f"The limit of {settings.capacity} holds in each process by itself: "
            "with several workers, give each its share."
        )
    return warnings


if __name__ == "__main__":
    main(prog_name="loco-otel")
