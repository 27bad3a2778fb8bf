"""Draws the dashboards from a Prometheus: `python -m dashboards.pictures --prometheus URL FOLDER`.

Grafana's UI libraries from npm draw them in a headless Chromium, so the pictures show Grafana's units, thresholds,
colours, overrides and transformations. No Grafana server takes part, and what is no library (heat maps) is left out.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

HERE = Path(__file__).parent
LABEL = "rendered with Grafana's UI libraries"
WIDTH, CELL_HEIGHT = 1600, 38


def main() -> int:
    """Write one PNG for each dashboard."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.pictures", description=__doc__)
    parser.add_argument("--prometheus", required=True, metavar="URL", help="which has scraped programs with loco-otel")
    parser.add_argument("--minutes", type=float, default=60, help="how much of the past the pictures show")
    parser.add_argument("--at", type=float, metavar="SECONDS", help="since the epoch: the time of the pictures")
    parser.add_argument("--scrape", type=float, default=15, metavar="SECONDS", help="how often it scrapes")
    parser.add_argument("--modules", type=Path, default=HERE, help="where `npm install` of package.json was run")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    now = options.at or time.time()
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        script, styles = _bundle_page(Path(work), options.modules)
        for file in sorted(HERE.parent.glob("loco-*.json")):
            board = json.loads(file.read_text(encoding="utf-8"))
            content = _answer_queries(board, options.prometheus, now, options.minutes * 60, options.scrape)
            page = _render_page(content, script, styles)
            (Path(work) / "page.html").write_text(page, encoding="utf-8")
            _take_picture(Path(work) / "page.html", board, options.folder / f"{file.stem}.png")
            sys.stdout.write(f"{options.folder / file.stem}.png: {LABEL}\n")
    return 0


def _bundle_page(work: Path, modules: Path) -> tuple[str, str]:
    """Return page.tsx with all that it imports, as one script and one style sheet."""
    shutil.copy(HERE / "page.tsx", work)
    (work / "node_modules").symlink_to((modules / "node_modules").resolve())
    command = [
        str(work / "node_modules" / ".bin" / "esbuild"),
        "page.tsx",
        "--bundle",
        "--minify",
        "--format=esm",
        "--outfile=page.js",
        "--jsx=automatic",
        "--loader:.ttf=dataurl",
        '--define:process.env.NODE_ENV="production"',
        "--log-level=error",
    ]
    subprocess.run(command, cwd=work, check=True)  # noqa: S603 - the bundler that npm has installed
    return (work / "page.js").read_text(encoding="utf-8"), (work / "page.css").read_text(encoding="utf-8")


def _answer_queries(board: Mapping[str, Any], url: str, now: float, seconds: float, scrape: float) -> dict[str, Any]:
    """Return a dashboard with the answers to all its queries, as data frames by the id of the panel."""
    step = max(scrape, seconds / 200)
    # As Grafana computes them.
    windows = {"__rate_interval": max(step + scrape, 4 * scrape), "__interval": step, "__range": seconds}
    answers = {
        panel["id"]: [frame for target in panel["targets"] for frame in _fetch_frames(url, panel, target, windows, now)]
        for panel in board["panels"]
        if panel["type"] != "row"
    }
    return {"board": board, "answers": answers, "from": (now - seconds) * 1000, "to": now * 1000}


def _render_page(content: Mapping[str, Any], script: str, styles: str) -> str:
    text = json.dumps(content).replace("<", "\\u003c")
    safe = script.replace("</script", "<\\/script")
    return (
        f'<!doctype html><meta charset="utf-8"><style>{styles}</style><div id="root"></div>'
        f'<script>window.INPUT={text}</script><script type="module">{safe}</script>'
    )


def _fetch_frames(
    url: str, panel: Mapping[str, Any], target: Mapping[str, Any], windows: Mapping[str, float], now: float
) -> list[dict[str, Any]]:
    """Return what a query finds, as data frames: one for each series, or for a table one for all."""
    values = {name: f"{seconds:.0f}s" for name, seconds in windows.items()}
    expr = re.sub(r"\$\{?([a-z_]\w*)(?::\w+)?\}?", lambda found: values.get(found[1], ".+"), target["expr"])
    path, parameters = "query", {"query": expr, "time": now}
    if not target["instant"]:
        start, step = now - windows["__range"], windows["__interval"]
        path, parameters = "query_range", {"query": expr, "start": start, "end": now, "step": step}
    with urlopen(f"{url.rstrip('/')}/api/v1/{path}?{urlencode(parameters)}") as answer:  # noqa: S310 - the user's URL
        series = json.load(answer)["data"]["result"]
    if panel["type"] == "table":
        name = f"Value #{target['refId']}" if len(panel["targets"]) > 1 else "Value"
        return [_build_table(series, target["refId"], name)] if series else []
    return [_build_series(it, target) for it in series]


def _build_series(series: Mapping[str, Any], target: Mapping[str, Any]) -> dict[str, Any]:
    points = series.get("values") or [series["value"]]
    legend = re.sub(
        r"\{\{\s*(\w+)\s*\}\}", lambda found: series["metric"].get(found[1], ""), target.get("legendFormat", "")
    )
    return {
        "refId": target["refId"],
        "fields": [
            {"name": "Time", "type": "time", "values": [at * 1000 for at, _ in points]},
            {
                "name": "Value",
                "type": "number",
                "labels": series["metric"],
                "values": [_read_number(value) for _, value in points],
                "config": {"displayNameFromDS": legend} if legend else {},
            },
        ],
    }


def _build_table(series: list[Mapping[str, Any]], ref: str, name: str) -> dict[str, Any]:
    labels = sorted({label for it in series for label in it["metric"]})
    fields: list[dict[str, Any]] = [
        {"name": "Time", "type": "time", "values": [it["value"][0] * 1000 for it in series]},
        *(
            {"name": label, "type": "string", "values": [it["metric"].get(label, "") for it in series]}
            for label in labels
        ),
    ]
    values = [_read_number(it["value"][1]) for it in series]
    return {"refId": ref, "fields": [*fields, {"name": name, "type": "number", "values": values}]}


def _read_number(text: str) -> float | None:
    value = float(text)
    return value if abs(value) < float("inf") else None


def _take_picture(page: Path, board: Mapping[str, Any], file: Path) -> None:
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    command = [
        "chromium",
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--window-size={WIDTH},{rows * CELL_HEIGHT + 16}",
        "--virtual-time-budget=15000",
        f"--screenshot={file.resolve()}",
        page.as_uri(),
    ]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - a browser, on our own page


sys.exit(main())
