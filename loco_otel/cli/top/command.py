"""The command `loco-otel top`."""

import os

import click

from loco_otel.cli import metrics_page


@click.command("top")
@click.argument("urls", metavar="[URL]...", nargs=-1)
@click.option("--interval", type=click.FloatRange(0.1, 60), default=1.0, show_default=True, help="Seconds.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 60),
    default=metrics_page.TIMEOUT,
    show_default=True,
    help="Seconds that a page may take.",
)
def show_top(*, urls: tuple[str, ...], interval: float, timeout: float) -> None:
    """Show resources, agents and budgets of running processes, live.

    URL is the Prometheus page of a process; name several for several processes. By default it is that of
    OTEL_EXPORTER_PROMETHEUS_HOST and _PORT. Needs the extra loco-otel[top].
    """
    try:
        from loco_otel.cli.top.app import TopApp  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise click.ClickException("the live view needs textual: pip install 'loco-otel[top]'") from error
    TopApp(urls or (metrics_page.get_default_url(os.environ),), interval, timeout).run()
