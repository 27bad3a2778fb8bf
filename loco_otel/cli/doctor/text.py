"""The report, to be read by people."""

from collections.abc import Iterable, Iterator

from rich.console import Console

from loco_otel.cli.doctor.report import AgentFramework, Report, Sdk


def print_report(report: Report) -> None:
    """Print a report."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(", ".join(f"{name} {number or '-'}" for name, number in report.versions.items()), style="bold")

    _print_heading(console, "SDKs")
    rows = [(sdk.sdk, sdk.version or "-", _format_state(sdk)) for sdk in report.sdks]
    for sdk, line in zip(report.sdks, _align_columns(rows), strict=True):
        style = "red" if sdk.fault else "green" if sdk.is_patched else "dim"
        console.print(line, style=style, markup=False)
        for detail in _format_details(sdk):
            console.print(f"    {detail}", markup=False)

    if report.frameworks:
        _print_heading(console, "Agent frameworks")
        for line in _align_columns((each.framework, each.module, _format_reader(each)) for each in report.frameworks):
            console.print(line, markup=False)

    _print_heading(console, "Exporters")
    ways = report.exporters
    for way, line in zip(
        ways, _align_columns((way.signal, " ".join(filter(None, way[1:3])), way.finding) for way in ways), strict=True
    ):
        style = {True: "green", False: "red" if way.stops_launcher else "yellow", None: ""}[way.works]
        console.print(line, style=style, markup=False)

    if report.settings:
        _print_heading(console, "Settings: value, and where it comes from")
        for line in _align_columns(report.settings):
            console.print(line, markup=False)

    _print_heading(console, "Notes")
    for error in report.errors:
        console.print(f"  error: {error}", style="red", markup=False)
    for warning in report.warnings:
        console.print(f"  warning: {warning}", style="yellow", markup=False)
    servers = f" ({', '.join(report.workers.servers)} installed)" if report.workers.servers else ""
    console.print(
        f"  Limits are per process: several workers{servers} together make several times as many calls.", markup=False
    )

    console.print()
    console.print(report.verdict, style="bold green" if report.has_no_errors else "bold red", markup=False)


def _format_state(sdk: Sdk) -> str:
    if sdk.version is None:
        return "not installed"
    if sdk.fault:
        return f"NOT patched: {sdk.fault}"
    if sdk.off:
        return f"off: {sdk.off}"
    return f"patched, {len(sdk.hooks)} methods"


def _format_reader(framework: AgentFramework) -> str:
    if framework.fault:
        return f"NOT read: {framework.fault}"
    return "agents are read" if framework.tested else "installed, not tested (--import tests it)"


def _format_details(sdk: Sdk) -> Iterator[str]:
    for other in sdk.instrumentors:
        yield f"also here: {other.distribution} {other.version} ({other.fault or 'works'})"
    modules = dict.fromkeys(" > ".join(method.by) for method in sdk.wrapped)
    for chain in modules:
        methods = [method.method for method in sdk.wrapped if " > ".join(method.by) == chain]
        more = f" and {len(methods) - 1} more" if len(methods) > 1 else ""
        yield f"{methods[0]}{more}: wrapped by {chain}"
    if sdk.inference_span:
        makers = [f"{maker}, the SDK itself" if maker == sdk.sdk else maker for maker in sdk.inference_span]
        yield f"inference span by {' and '.join(makers)}"
    if sdk.is_patched and sdk.not_covered:
        yield f"not scheduled: {', '.join(sdk.not_covered)}"


def _print_heading(console: Console, text: str) -> None:
    console.print(f"\n{text}", style="bold")


def _align_columns(rows: Iterable[tuple[str, str, str]]) -> list[str]:
    """Return rows of three as lines with straight columns."""
    rows = list(rows)
    first, second = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    return [f"  {row[0]:{first}}  {row[1]:{second}}  {row[2]}" for row in rows]
