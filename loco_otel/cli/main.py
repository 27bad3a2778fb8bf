"""The `loco-otel` command: checks the installation, and prints the scheduler's state, budgets and spending."""

import json
import os
import sys
import time
from collections.abc import Iterable
from contextlib import redirect_stdout
from datetime import datetime
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

import click

from loco_otel import simulation
from loco_otel._config.settings import Settings
from loco_otel._core.policies.registry import POLICIES
from loco_otel._introspection import tables
from loco_otel.cli import dashboards as dashboard_files
from loco_otel.cli import ledger as ledger_output
from loco_otel.cli import metrics_page, shared
from loco_otel.cli import ps as ps_output
from loco_otel.cli.doctor import collect_versions, examine_environment, print_report
from loco_otel.cli.report.command import write_report
from loco_otel.cli.run_rows import print_runs
from loco_otel.cli.top.command import show_top
from loco_otel.errors import ConfigurationError, LedgerError
from loco_otel.money import RUN_ATTRIBUTION

_WATCH_INTERVAL = 1.0
"""Seconds."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Load-aware scheduling of LLM calls inside Python programs, visible in OpenTelemetry.

    No command is needed to run a program: opentelemetry-instrument python app.py
    """


@main.command("version")
def print_version() -> None:
    """Print the versions of loco-otel, Python and OpenTelemetry."""
    for name, number in collect_versions().items():
        click.echo(f"{name} {number or 'not installed'}")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead, for programs.")
@click.option("--import", "imports", is_flag=True, help="Import and patch each SDK, and test agent frameworks. Slow.")
@click.pass_context
def doctor(context: click.Context, *, as_json: bool, imports: bool) -> None:
    """Check whether LLM calls would be scheduled here, and explain why not.

    Reads the SDKs' source. Imports and patches an SDK that other instrumentors patch too, as opentelemetry-instrument
    does, and checks the result. Tests the exporters too. Exits with 1 if calls would be unscheduled.
    """
    # LiteLLM requests its price list from the network when it is imported.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    with redirect_stdout(sys.stderr):  # what other packages print on import
        report = examine_environment(os.environ, imports=imports)
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        print_report(report)
    if not report.has_no_errors:
        context.exit(1)


@main.command()
@click.option(
    "--url", help="The process's Prometheus page.  [default: that of OTEL_EXPORTER_PROMETHEUS_HOST and _PORT]"
)
@click.option("--engine", help="The URL of a shared engine (LOCO_ENGINE): shows the requests of all its processes.")
@click.option(
    "--by",
    type=click.Choice(["agent", "run"]),
    default="agent",
    show_default=True,
    help="Agents of each resource, or runs by workflow and priority.",
)
@click.option("--watch", is_flag=True, help="Repeat every second, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead, for programs.")
def ps(*, url: str | None, engine: str | None, by: str, watch: bool, as_json: bool) -> None:
    """Show which agents hold a slot, which are waiting, and which is next, in a running process; or its runs.

    Reads the page of OpenTelemetry's Prometheus exporter in that process. Exits with 1 if there is none.
    """
    address = url or metrics_page.get_default_url(os.environ)
    console = tables.make_console()
    try:
        if engine is not None:
            state = shared.fetch_state(engine, os.environ)
            if as_json:
                tickets = [ticket._asdict() for ticket in state.tickets]
                click.echo(json.dumps({**state._asdict(), "tickets": tickets}, indent=2))
            else:
                shared.print_state(state, console)
            return
        if as_json:
            if by == "run":
                found = {"runs": [row._asdict() for row in ps_output.fetch_runs(address)]}
            else:
                rows = ps_output.fetch_resources(address)
                found = {
                    "resources": [{**it._asdict(), "agents": [agent._asdict() for agent in it.agents]} for it in rows]
                }
            click.echo(json.dumps(found, indent=2))
            return
        while True:
            print_page = (
                partial(print_runs, ps_output.fetch_runs(address))
                if by == "run"
                else partial(tables.print_resources, ps_output.fetch_resources(address))
            )
            if watch:
                console.clear()
            print_page(console)
            if not watch:
                return
            time.sleep(_WATCH_INTERVAL)
    except metrics_page.PageError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        return


main.add_command(show_top)
main.add_command(write_report)


_LEDGER_OPTION = click.option(
    "--ledger",
    metavar="PATH|URL",
    help="The ledger's file, or its server.  [default: that of LOCO_LEDGER, or of LOCO_ENGINE]",
)


def _resolve_ledger(given: str | None) -> ledger_output.LedgerPlace:
    """Return where the ledger is.

    Raises:
        ClickException: a setting is invalid, or no ledger is set.

    """
    try:
        settings = Settings.load(os.environ)
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from error
    location = given or settings.ledger_location
    if location is None:
        raise click.UsageError(
            "what a process spends is in its memory alone: set LOCO_LEDGER to the path of a file, or to the URL of a"
            " server, for it and here, or name that with --ledger"
        )
    return ledger_output.LedgerPlace(location, settings.engine_namespace, ZoneInfo(settings.budget_zone))


@main.command()
@_LEDGER_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead, for programs.")
def budgets(*, ledger: str | None, as_json: bool) -> None:
    """Show the status of a ledger's budgets, and when they run out at the current rate.

    Limits are those that programs with this ledger last stored. Exits with 1 if it can't be read.
    """
    place, now = _resolve_ledger(ledger), time.time()
    try:
        standings = ledger_output.load_budgets(place, now)
    except LedgerError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps({"budgets": [ledger_output.budget_as_json(it, now) for it in standings]}, indent=2))
    else:
        ledger_output.print_budgets(standings, place.zone, now, tables.make_console())


@main.command()
@click.option("--by", default="agent,model", show_default=True, help=f"Of {', '.join(RUN_ATTRIBUTION)}.")
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="From this day of UTC on.  [default: all]")
@_LEDGER_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead, for programs.")
def spend(*, by: str, since: datetime | None, ledger: str | None, as_json: bool) -> None:
    """Show the cost of calls, grouped by fields; the most expensive first.

    Exits with 1 if the ledger can't be read.
    """
    place = _resolve_ledger(ledger)
    fields = [name.strip() for name in by.split(",") if name.strip()]
    try:
        totals = ledger_output.load_spending(place, fields, since)
    except LedgerError as error:
        raise click.ClickException(str(error)) from error
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--by") from error
    if as_json:
        click.echo(json.dumps({"spend": [ledger_output.totals_as_json(it, fields) for it in totals]}, indent=2))
    else:
        ledger_output.print_spending(totals, fields, tables.make_console())


_POLICY_CHOICES = (
    *POLICIES,
    *simulation.BASELINES,
    *(f"{name}{simulation.BY_RUN}" for name in POLICIES),
    simulation.ORACLE,
)


def _parse_policies(_: click.Context, parameter: click.Parameter, names: str | None) -> list[str] | None:
    if names is None:
        return None
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        if name not in _POLICY_CHOICES:
            raise click.BadParameter(f"{name!r} is none of {', '.join(_POLICY_CHOICES)}", param=parameter)
    return chosen


def _compare_runs(
    scenario: simulation.Scenario, names: Iterable[str], seeds: range, *, guard: int, as_json: bool
) -> None:
    results = simulation.compare_runs(scenario, names, seeds, guard=guard)
    if as_json:
        click.echo(json.dumps(simulation.run_results_as_json(scenario, results), indent=2))
    else:
        simulation.print_run_results(scenario, results, tables.make_console())


def _select_policies(
    scenario: simulation.Scenario, policy: list[str] | None, against: list[str] | None
) -> Iterable[str]:
    """Return the policies to compare: those that are named, else the defaults of the scenario."""
    if scenario.runs:
        names = [*(policy or ()), *(against or ())] or simulation.RUN_POLICIES
        if unfit := [name for name in names if name in simulation.BASELINES]:
            raise simulation.ScenarioError(f"{', '.join(unfit)} cannot order runs; choose from {', '.join(POLICIES)}")
    else:
        names = [*(policy or ("load",)), *(("fifo", *simulation.BASELINES) if against is None else against)]
        if unfit := [name for name in names if name not in (*POLICIES, *simulation.BASELINES)]:
            raise simulation.ScenarioError(f"{', '.join(unfit)} needs a scenario with runs")
    return dict.fromkeys(names)


@main.command()
@click.argument("scenario", metavar="SCENARIO")
@click.option(
    "--policy",
    callback=_parse_policies,
    help="Under which to run it; for runs with :run after it, as fair:run.  [default: load; of runs, several]",
)
@click.option(
    "--against",
    callback=_parse_policies,
    help="And under which else.  [default: fifo,round-robin,semaphore; of runs, none]",
)
@click.option("--alpha", type=click.FloatRange(0, 1), help="Of `load`.  [default: the scenario's]")
@click.option("--capacity", type=click.IntRange(1), help="Slots.  [default: the scenario's]")
@click.option("--load", type=click.FloatRange(0, 10, min_open=True), help="Of runs.  [default: the scenario's]")
@click.option("--half-life", type=click.FloatRange(0, min_open=True), help="Of `las`.  [default: the scenario's]")
@click.option("--guard", type=click.IntRange(0), default=0, show_default=True, help="LOCO_MAX_WAIT_TICKS; 0 is off.")
@click.option("--seeds", type=click.IntRange(1, 10_000), default=1, show_default=True, help="How many runs.")
@click.option("--seed", type=int, default=42, show_default=True, help="The first run's.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write a picture, not of runs: .svg, .png, .pdf."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead, for programs.")
def simulate(
    *,
    scenario: str,
    policy: list[str] | None,
    against: list[str] | None,
    alpha: float | None,
    capacity: int | None,
    load: float | None,
    half_life: float | None,
    guard: int,
    seeds: int,
    seed: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Run a scenario in simulated time, under several policies side by side.

    SCENARIO is burst, fairness, webhook_spike, mdash_security; of runs: runs, agent_service, interactive_background; or
    your own TOML file. The core that grants is the one that schedules your calls.
    """
    try:
        played = simulation.load_scenario(scenario)
        given = {"capacity": capacity, "load": load, "half_life": half_life, "alpha": alpha}
        played = played.model_copy(update={key: value for key, value in given.items() if value is not None})
        names = _select_policies(played, policy, against)
        if played.runs:
            _compare_runs(played, names, range(seed, seed + seeds), guard=guard, as_json=as_json)
            return
        outcomes = simulation.compare_policies(played, names, range(seed, seed + seeds), alpha=alpha, guard=guard)
        if as_json:
            click.echo(json.dumps(simulation.results_as_json(played, outcomes), indent=2))
        else:
            simulation.print_results(played, outcomes, tables.make_console())
        if plot is not None:
            simulation.plot_results(played, outcomes, plot)
    except simulation.ScenarioError as error:
        raise click.ClickException(str(error)) from error


@main.group()
def dashboards() -> None:
    """Export the Grafana dashboards and the alert rules, or push the dashboards to a Grafana."""


@dashboards.command("export")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--runbooks",
    metavar="URL",
    help=f"Where you serve the folder runbooks; alerts link to it.  [default: {dashboard_files.RUNBOOKS}]",
)
def export_dashboards(*, folder: Path, runbooks: str | None) -> None:
    """Write dashboards, rules, runbooks, provisioning and a compose file to FOLDER.

    Overwrites files of the same name.
    """
    try:
        for name in dashboard_files.export_files(folder, runbooks):
            click.echo(folder / name)
    except dashboard_files.DashboardError as error:
        raise click.ClickException(str(error)) from error


@dashboards.command("push")
@click.option("--url", required=True, help="Grafana's address.")
@click.option("--folder", metavar="UID", help="The folder to put them in.  [default: the top level]")
def push_dashboards(*, url: str, folder: str | None) -> None:
    """Create the dashboards in a Grafana, or replace them there.

    GRAFANA_TOKEN must be a token of a service account that may write dashboards. Needs the extra loco-otel[grafana].
    """
    token = os.environ.get("GRAFANA_TOKEN")
    if not token:
        raise click.UsageError("set GRAFANA_TOKEN to a token of a service account of Grafana")
    try:
        for line in dashboard_files.push_dashboards(url, token, folder):
            click.echo(line)
    except dashboard_files.DashboardError as error:
        raise click.ClickException(str(error)) from error
