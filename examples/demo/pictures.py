"""Makes the pictures of the live view, the report and the dashboards: `python examples/demo/pictures.py FOLDER`.

Runs two processes of examples/newsroom.py, the program of `make demo`, with one ledger against a mock LLM server.
Textual draws the terminal, and a headless Chromium the report. With `--modules`, a Prometheus scrapes the processes,
and Grafana's UI libraries draw the dashboards: see dashboards/pictures.
"""

import argparse
import asyncio
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from child import Child, command, environment, free_port
from server import MockServer
from textual.widgets import DataTable

from loco_otel.cli.top.app import TopApp

ROOT = Path(__file__).resolve().parents[2]
NEWSROOM = ROOT / "examples" / "newsroom.py"
PROMETHEUS_PORT = free_port()
BEFORE_THE_END = 6.0
"""Seconds: the dashboards show a moment at which calls were under way."""
TERMINAL = (152, 22)
REPORT_SIZE = "1240,1480"
PROCESSES, AGENTS = 2, 4
_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""Of the web, which Textual's pictures name: the picture is the same without."""
SETTINGS = {
    "LOCO_CAPACITY": "2",
    "LOCO_BUDGETS": "analyst=0.003,crawler=0.40,writer=0.01,*=1.00",
    "LOCO_BUDGET_PERIOD": "day",
    "LOCO_BUDGET_ON_EXCEEDED": "alert",
    "OTEL_METRICS_EXPORTER": "prometheus",
    "OTEL_TRACES_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    "OTEL_SERVICE_NAME": "newsroom",
}


def main() -> int:
    """Write top.svg and report.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", type=Path, help="where `npm install` of dashboards/pictures/package.json was run")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        server = MockServer(work)
        stack.callback(server.stop)
        while not server.ready:
            time.sleep(0.1)
        programs, urls = _start_programs(work, server.address)
        for program in programs:
            stack.callback(program.stop)
        prometheus = _start_prometheus(work, urls) if options.modules else None
        if prometheus:
            stack.callback(prometheus.stop)
        report = pool.submit(_record_report, urls, work / "report.html")
        server.refuse("openai", "anthropic")
        (folder / "top.svg").write_text(asyncio.run(_draw_terminal(urls)), encoding="utf-8")
        while any(program.status is None for program in programs):
            time.sleep(0.1)
        busy_at = time.time() - BEFORE_THE_END
        report.result()
        _take_picture(work / "report.html", folder / "report.png")
        if prometheus:
            _draw_dashboards(options.modules, busy_at, work / "dashboards", folder)
    return 0


def _start_prometheus(work: Path, urls: list[str]) -> Child:
    targets = [url.removeprefix("http://").removesuffix("/metrics") for url in urls]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ROOT / "dashboards" / "alerts" / "loco.rules.yml")],
        "scrape_configs": [{"job_name": "newsroom", "static_configs": [{"targets": targets}]}],
    }
    (work / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")
    options = [f"--config.file={work / 'prometheus.yml'}", f"--storage.tsdb.path={work / 'data'}"]
    launch = ["prometheus", *options, f"--web.listen-address=127.0.0.1:{PROMETHEUS_PORT}"]
    return Child(launch, environment(), work / "prometheus.txt")


def _draw_dashboards(modules: Path, at: float, work: Path, folder: Path) -> None:
    source = f"http://127.0.0.1:{PROMETHEUS_PORT}"
    options = ["--prometheus", source, "--at", f"{at}", "--minutes", "0.6", "--scrape", "1"]
    options += ["--modules", modules.resolve(), work]
    subprocess.run([sys.executable, "-m", "dashboards.pictures", *options], check=True, cwd=ROOT)
    for picture in work.glob("loco-*.png"):
        shutil.move(picture, folder / picture.name.replace("loco-", "dashboard-"))


def _start_programs(work: Path, address: str) -> tuple[list[Child], list[str]]:
    programs, urls = [], []
    for number in range(PROCESSES):
        port = free_port()
        variables = environment(
            **SETTINGS,
            LOCO_LEDGER=str(work / "ledger.db"),
            OPENAI_API_KEY="demo",
            OPENAI_BASE_URL=f"http://{address}/v1",
            ANTHROPIC_API_KEY="demo",
            ANTHROPIC_BASE_URL=f"http://{address}/anthropic",
            OTEL_EXPORTER_PROMETHEUS_HOST="127.0.0.1",
            OTEL_EXPORTER_PROMETHEUS_PORT=str(port),
        )
        launch = [command("opentelemetry-instrument"), sys.executable, NEWSROOM]
        programs.append(Child(launch, variables, work / f"{number}.txt"))
        urls.append(f"http://127.0.0.1:{port}/metrics")
    return programs, urls


def _record_report(urls: list[str], file: Path) -> None:
    options = ["--wait", "120", "--interval", "0.2", "--title", "Two newsrooms under loco-otel", "--out", file]
    subprocess.run([command("loco-otel"), "report", *urls, *options], check=True, capture_output=True)


async def _draw_terminal(urls: list[str]) -> str:
    """Return the picture once all agents have spent, and most wait."""
    app = TopApp(urls, interval=0.5)
    async with app.run_test(size=TERMINAL) as pilot:
        while app.query_one("#agents", DataTable).row_count < AGENTS:
            await pilot.pause(0.1)
        await pilot.pause(4)
        await pilot.press("s", "w")
        return _FONT.sub("", app.export_screenshot(title="loco-otel top"))


def _take_picture(page: Path, file: Path) -> None:
    command_line = [
        "chromium",
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--window-size={REPORT_SIZE}",
        f"--screenshot={file.resolve()}",
        page.as_uri(),
    ]
    subprocess.run(command_line, check=True, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
