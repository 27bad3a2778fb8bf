"""A report of two real processes, in Chromium: nothing on the console, plots with data, figures of the ledger."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from llm_server import LlmServer
from patience import PATIENCE
from report_browser import OpenReport, open_report
from sdk_collector import Collector
from sdk_server import free_port
from workload import MODELS, start_worker

from loco_otel._budgets.sqlite_ledger import LedgerView
from loco_otel._telemetry import attributes as key
from loco_otel._telemetry import catalogue
from loco_otel.cli.metrics_page import MetricsPage, fetch_page
from loco_otel.cli.report.figures import draw_plots
from loco_otel.cli.report.page import render_page
from loco_otel.cli.report.sampling import record_pages
from loco_otel.cli.report.summary import summarize_run
from loco_otel.money import MICRO

CALLS = {"writer": 3, "analyst": 3, "crawler": 8}
"""Calls of each process, by agent: each has more than its process has slots."""
SLOTS = 2
REFUSED = 3


class Reported(NamedTuple):
    """The report of a run, and what is true."""

    file: Path
    spend: dict[str, float]
    tokens: dict[str, tuple[int, int]]


def has_all_waiting(page: MetricsPage) -> bool:
    """Return whether calls of every agent wait."""
    waiting = page.sum_by(catalogue.REQUESTS_WAITING, key.AGENT)
    return all(waiting.get((agent,)) for agent in CALLS)


def has_all_granted(page: MetricsPage) -> bool:
    """Return whether no call waits or holds a slot any more."""
    return not any(
        sum(page.sum_by(metric).values()) for metric in (catalogue.REQUESTS_WAITING, catalogue.REQUESTS_ACTIVE)
    )


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    folder = tmp_path_factory.mktemp("report")
    ledger = folder / "ledger.db"
    ports = [free_port(), free_port()]
    urls = [f"http://127.0.0.1:{port}/metrics" for port in ports]
    readings: list[MetricsPage] = []

    def fetch(url: str, timeout: float) -> MetricsPage:
        page = fetch_page(url, timeout)
        readings.append(page)
        return page

    with LlmServer() as server, Collector() as collector, ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(1))
        settings = {"LOCO_CAPACITY": str(SLOTS), "LOCO_LEDGER": str(ledger)}
        workers = [
            stack.enter_context(start_worker(server, folder / str(number), port, collector.port, **settings))
            for number, port in enumerate(ports)
        ]
        for worker in workers:
            worker.until_done(0)

        def until_read(is_shown: Callable[[MetricsPage], bool] = lambda _: True) -> None:
            """Wait until a page of each process is read that shows this."""
            known = len(readings)
            workers[0].program.until(lambda: {it.url for it in readings[known:] if is_shown(it)} == set(urls))

        recorded = pool.submit(record_pages, urls, interval=0.2, duration=None, patience=60, timeout=60, fetch=fetch)
        until_read()
        server.throttle(times=REFUSED, model=MODELS["analyst"])
        assert workers[0].run("analyst", REFUSED) == {"RateLimitError": REFUSED}
        server.hold()
        orders = [(it, it.order(agent, calls, at_once=4)) for it in workers for agent, calls in CALLS.items()]
        server.wait_for(in_progress=4, timeout=PATIENCE)
        until_read(has_all_waiting)
        server.release()
        for worker, order in orders:
            assert worker.until_done(order).keys() == {"ok"}
        until_read(has_all_granted)
        for worker in workers:
            worker.end()
        recording = recorded.result(PATIENCE)
    view = LedgerView(ledger)
    totals = {str(it.by[0]): it for it in view.compute_totals(("agent",))}
    view.close()
    summary = summarize_run(recording)
    file = folder / "report.html"
    file.write_text(render_page("Harbour", recording, summary, draw_plots(recording, summary)))
    return Reported(
        file,
        {agent: it.usd / MICRO for agent, it in totals.items()},
        {agent: (it.input_tokens, it.output_tokens) for agent, it in totals.items()},
    )


@pytest.fixture(scope="module")
def browser(reported: Reported) -> Iterator[OpenReport]:
    with open_report(reported.file) as report:
        yield report


def test_report_has_the_figures_of_the_ledger(reported: Reported, browser: OpenReport) -> None:
    rows = {row[0]: row for row in browser.read_table("agents")}
    assert rows.keys() == {*CALLS, "all"}
    for agent, calls in CALLS.items():
        refused = REFUSED if agent == "analyst" else 0
        assert int(rows[agent][1]) == 2 * calls + refused
        assert rows[agent][-1] == f"{reported.spend[agent]:.4f}"
        assert tuple(int(it.replace(",", "")) for it in rows[agent][-3:-1]) == reported.tokens[agent]
    assert rows["all"][-1] == f"{sum(reported.spend.values()):.4f}"
    tiles = browser.read_tiles()
    assert tiles["refused by providers"] == str(REFUSED)
    assert tiles["in slots at once, at most"] == "4"
    assert tiles["without a slot"] == "0"
    budgets = {tuple(row[:2]): row for row in browser.read_table("budgets")}
    spent = reported.spend["analyst"] + reported.spend["crawler"]
    assert float(budgets["tenant acme", "month"][3].lstrip("$")) == pytest.approx(spent, abs=1e-4)


def test_each_plot_has_data(browser: OpenReport) -> None:
    plots = browser.read_plots()
    assert plots.keys() == {"slots", "waiting", "quantiles", "causes", "spend", "outcomes"}
    for name, parts in plots.items():
        assert parts, name
        assert all(it["width"] + it["height"] > 1 for it in parts), name
    tooltips = {name: [it["tooltip"] for it in parts] for name, parts in plots.items()}
    assert {text.split(":")[0] for text in tooltips["waiting"]} == set(CALLS)
    assert "slots, at most 4" in tooltips["slots"]
    assert f"openai 429: {REFUSED}" in tooltips["outcomes"]
    assert f"granted: {2 * sum(CALLS.values()) + REFUSED}" in tooltips["outcomes"]
    assert any(text.startswith("writer waited ") for text in tooltips["causes"])


def test_report_follows_the_colour_scheme(browser: OpenReport) -> None:
    light, dark = browser.read_colours("light"), browser.read_colours("dark")
    assert light == ("rgb(28, 36, 48)", "rgb(244, 246, 248)")
    assert dark == ("rgb(228, 232, 238)", "rgb(18, 22, 27)")


def test_report_fits_the_window_and_prints_on_two_pages(browser: OpenReport, tmp_path: Path) -> None:
    assert browser.find_overflow() <= 0
    assert 1 <= browser.print_pages(tmp_path / "report.pdf") <= 2
