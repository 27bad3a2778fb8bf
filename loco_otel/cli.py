"""The `loco-otel` command: what is installed, and whether the calls of this environment's programs are scheduled."""

import json
import os
import sys
from contextlib import redirect_stdout

import click

from loco_otel._doctor import examine, show, versions


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Load-aware scheduling of LLM calls inside Python programs, visible in OpenTelemetry.

    Nothing here is needed to run a program: opentelemetry-instrument python app.py
    """


@main.command("version")
def show_version() -> None:
    """Print the versions of loco-otel, Python and OpenTelemetry."""
    for name, number in versions().items():
        click.echo(f"{name} {number or 'not installed'}")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead, for programs.")
@click.pass_context
def doctor(context: click.Context, *, as_json: bool) -> None:
    """Tell whether LLM calls would be scheduled here, and if not, why.

    Patches the SDKs in this process, as opentelemetry-instrument does in yours, other instrumentors included, and looks
    what came of it. Tries the exporters too. Exits with 1 when calls would go unscheduled.
    """
    with redirect_stdout(sys.stderr):  # what others print on being loaded
        report = examine(os.environ)
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        show(report)
    if not report.well:
        context.exit(1)


if __name__ == "__main__":
    main(prog_name="loco-otel")
