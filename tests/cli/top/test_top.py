"""`loco-otel top` on two real processes that share a ledger: what it shows, sorts, pauses and keeps."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner
from llm_server import LlmServer
from patience import PATIENCE
from sdk_collector import Collector
from sdk_server import free_port
from top_screen import Row, TopScreen, watch_top
from workload import Worker, start_worker

from loco_otel._budgets.sqlite_ledger import LedgerView
from loco_otel.cli.main import main
from loco_otel.cli.top.cells import format_usd
from loco_otel.money import MICRO


class Scene(NamedTuple):
    """Two processes with two slots each, and the server that answers them."""

    server: LlmServer
    workers: list[Worker]
    urls: list[str]
    ledger: Path
    start: Callable[[int], Worker]

    def read_spend(self) -> dict[str, str]:
        view = LedgerView(self.ledger)
        try:
            return {str(it.by[0]): format_usd(it.usd / MICRO) for it in view.compute_totals(("agent",))}
        finally:
            view.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with LlmServer() as server, Collector() as collector, ExitStack() as stack:
        ports, ledger, starts = [free_port(), free_port()], tmp_path / "ledger.db", iter(range(9))

        def start(number: int) -> Worker:
            folder = tmp_path / f"{next(starts)}"
            worker = stack.enter_context(
                start_worker(
                    server,
                    folder,
                    ports[number],
                    collector.port,
                    LOCO_CAPACITY="2",
                    LOCO_LEDGER=str(ledger),
                )
            )
            worker.until_done(0)
            return worker

        urls = [f"http://127.0.0.1:{port}/metrics" for port in ports]
        yield Scene(server, [start(0), start(1)], urls, ledger, start)


def _find_row(screen: TopScreen, agent: str) -> Row:
    (row,) = [row for row in screen.agents() if row["Agent"] == agent]
    return row


def _list_order(screen: TopScreen) -> list[str]:
    return [row["Agent"] for row in screen.agents()]


def test_top_shows_sorts_pauses_and_keeps_two_processes(scene: Scene) -> None:
    server, (first, second) = scene.server, scene.workers
    for worker in (first, second):
        worker.run("writer", 2)
        worker.run("analyst", 1)
    server.hold()
    orders = [(first, first.order("crawler", 6, at_once=6)), (second, second.order("crawler", 2, at_once=2))]
    server.wait_for(in_progress=4, timeout=PATIENCE)
    orders.append((second, second.order("analyst", 3, at_once=3)))
    spend = scene.read_spend()
    assert spend["analyst"] != spend["writer"] != "$0.00"

    async def script(screen: TopScreen) -> None:
        await screen.until(
            lambda: (
                len(screen.agents()) == 3
                and _find_row(screen, "crawler")["Waiting"].startswith("  4 ")
                and _find_row(screen, "analyst")["Waiting"].startswith("  3 ")
                and _find_row(screen, "analyst")["Held up by"] == "crawler 100%"
                and _find_row(screen, "crawler")["Held up by"] == "itself 100%"
            )
        )
        crawler, analyst, writer = (_find_row(screen, agent) for agent in ("crawler", "analyst", "writer"))
        assert crawler["Active"] == "  4 ■■■■"
        assert (analyst["Active"], analyst["L"]) == ("·", "0.250")
        assert (writer["Active"], writer["Waiting"], writer["Held up by"]) == ("·", "·", "-")
        assert {row["Agent"]: row["Spend"] for row in screen.agents()} == {"crawler": "$0.00", **spend}
        resources = screen.text("resources").splitlines()
        assert resources[1].split() == ["llm_api", "load", "█" * 20, "4", "of", "4", "7"]
        budgets = [line.split() for line in screen.text("budgets").splitlines()[1:]]
        assert ["tenant", "acme", "month"] in [words[:3] for words in budgets]
        assert [words[-1] for words in budgets if words[:3] == ["tenant", "acme", "month"]] == ["$5.00"]

        assert _list_order(screen) == ["crawler", "analyst", "writer"]
        await screen.pilot.press("s")
        assert _list_order(screen) == ["writer", "analyst", "crawler"]
        await screen.pilot.press("s")
        assert _list_order(screen) == ["crawler", "analyst", "writer"]
        await screen.pilot.press("a")
        assert _list_order(screen) == ["analyst", "crawler", "writer"]
        await screen.pilot.press("r")
        assert _list_order(screen) == ["writer", "crawler", "analyst"]
        assert screen.title == "2 of 2 processes, by agent, descending"

        await screen.pilot.press("p")
        assert screen.title == "paused: p continues"
        shown = screen.agents()
        server.release()
        for worker, order in orders:
            assert worker.until_done(order).keys() == {"ok"}
        await screen.pilot.pause(0.3)
        assert screen.agents() == shown
        await screen.pilot.press("p")
        await screen.until(lambda: _find_row(screen, "crawler")["Waiting"] == "·")
        ended = scene.read_spend()
        await screen.until(lambda: {row["Agent"]: row["Spend"] for row in screen.agents()} == ended)

        # A process that has ended holds nothing, and what it has spent remains until another takes its page.
        first.end()
        await screen.until(lambda: "Connection refused" in screen.text("endpoints"))
        assert screen.title.startswith("1 of 2 processes")
        assert {row["Agent"]: row["Spend"] for row in screen.agents()} == ended
        again = scene.start(0)
        await screen.until(lambda: screen.title.startswith("2 of 2 processes"))
        assert _find_row(screen, "writer")["Spend"] != ended["writer"]
        again.end()
        second.end()

    watch_top(scene.urls, script)


def test_top_without_textual_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "loco_otel.cli.top.app", raising=False)
    monkeypatch.setitem(sys.modules, "textual.app", None)
    done = CliRunner().invoke(main, ["top"])
    assert done.exit_code == 1
    assert "pip install 'loco-otel[top]'" in done.output
