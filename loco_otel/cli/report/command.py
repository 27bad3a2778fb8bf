"""The command `loco-otel report`."""

import os
from pathlib import Path

import click

from loco_otel.cli import metrics_page
from loco_otel.cli.report.figures import draw_plots
from loco_otel.cli.report.otlp_file import read_spans
from loco_otel.cli.report.page import render_page
from loco_otel.cli.report.recording import Recording
from loco_otel.cli.report.sampling import record_pages
from loco_otel.cli.report.summary import summarize_run
from loco_otel.cli.report.traces import record_spans
from loco_otel.errors import LocoError


@click.command("report")
@click.argument("urls", metavar="[URL]...", nargs=-1)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default="report.html", show_default=True)
@click.option(
    "--trace",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Report the spans in this file instead: OTLP in JSON, an export in each line.",
)
@click.option("--duration", type=click.FloatRange(0), help="Seconds to record.  [default: until the processes end]")
@click.option("--interval", type=click.FloatRange(0.1), default=1.0, show_default=True, help="Seconds.")
@click.option(
    "--wait", type=click.FloatRange(0), default=0.0, show_default=True, help="Seconds to wait for a first page."
)
@click.option("--title", default="A run under loco-otel", show_default=True)
def write_report(
    *,
    urls: tuple[str, ...],
    out: Path,
    trace: Path | None,
    duration: float | None,
    interval: float,
    wait: float,
    title: str,
) -> None:
    """Write the plots and figures of a run to one HTML file that loads nothing.

    URL is the Prometheus page of a process; name several for several processes. By default it is that of
    OTEL_EXPORTER_PROMETHEUS_HOST and _PORT. Records until the processes end, or until Ctrl-C. Needs the extra
    loco-otel[plot].
    """
    if trace is not None and urls:
        raise click.UsageError("name pages or a file with --trace, not both")
    try:
        recording = _record(urls, trace, duration, interval, wait)
        summary = summarize_run(recording)
        page = render_page(title, recording, summary, draw_plots(recording, summary))
        _replace_file(out, page)
    except LocoError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{out} cannot be written: {error.strerror}") from error
    click.echo(out)


def _record(
    urls: tuple[str, ...], trace: Path | None, duration: float | None, interval: float, wait: float
) -> Recording:
    if trace is not None:
        return record_spans(read_spans(trace), f"the spans in {trace}")
    pages = urls or (metrics_page.get_default_url(os.environ),)
    return record_pages(pages, interval=interval, duration=duration, patience=wait, timeout=metrics_page.TIMEOUT)


def _replace_file(path: Path, text: str) -> None:
    """Write a file at once: a reader finds the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
