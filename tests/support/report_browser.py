"""A report in Debian's Chromium: what it logs, loads and shows."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE
from playwright.sync_api import Page, sync_playwright

_READ_DATA = """
() => Object.fromEntries([...document.querySelectorAll("figure")].map(figure => [
    figure.id,
    [...figure.querySelectorAll("svg .data")].map(it => {
        const box = it.getBBox();
        return {width: box.width, height: box.height, tooltip: it.querySelector("title").textContent};
    }),
]))
"""


class OpenReport:
    """A report that Chromium shows; a message on the console or a request fails the test."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def read_tiles(self) -> dict[str, str]:
        tiles = self._page.locator(".tile").all()
        return {it.locator("p").inner_text(): it.locator("b").inner_text() for it in tiles}

    def read_table(self, name: str) -> list[list[str]]:
        rows = self._page.locator(f"#{name} tbody tr").all()
        return [[cell.strip() for cell in row.locator("td").all_inner_texts()] for row in rows]

    def read_plots(self) -> dict[str, list[dict[str, Any]]]:
        """Return the size and the tooltip of each part with data, by plot."""
        plots: dict[str, list[dict[str, Any]]] = self._page.evaluate(_READ_DATA)
        return plots

    def find_overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        pixels: int = self._page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth")
        return pixels

    def read_colours(self, scheme: Any) -> tuple[str, str]:
        """Return the colours of a plot's text and of the ground, in a colour scheme."""
        self._page.emulate_media(color_scheme=scheme)
        read = "it => [getComputedStyle(it).fill, getComputedStyle(document.body).backgroundColor]"
        text, ground = self._page.locator("svg text").first.evaluate(read)
        return text, ground

    def print_pages(self, file: Path) -> int:
        """Print to a PDF on A4, and return the number of its pages."""
        content = self._page.pdf(path=file, format="A4", print_background=True)
        return content.count(b"/Type /Page\n") or content.count(b"/Type /Page ") or content.count(b"/Type/Page/")


@contextmanager
def open_report(file: Path) -> Iterator[OpenReport]:
    """Open a report in a headless Chromium of 1240 pixels."""
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("no chromium on the path: apt-get install chromium, as `.ci/run` does")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"], timeout=PATIENCE * 1000)
        page = browser.new_page(viewport={"width": 1240, "height": 1600})
        page.set_default_timeout(PATIENCE * 1000)
        logged: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message: logged.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: logged.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        yield OpenReport(page)
        assert logged == []
        assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]
        browser.close()
