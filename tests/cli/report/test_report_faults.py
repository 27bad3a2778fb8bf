"""`loco-otel report` where pages are absent, vanish, hang or are another program's, and of files that are no traces."""

import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from faulty_page import FaultyPage, write_page

from loco_otel.cli.main import main
from loco_otel.cli.metrics_page import MetricsPage, PageError, parse_page
from loco_otel.cli.report.recording import MAX_TIMES, Recording
from loco_otel.cli.report.sampling import record_pages
from loco_otel.cli.report.summary import RunSummary, summarize_run


class Script:
    """Gives what each reading finds: the text of a page, or None for none; the clock moves with each sleep."""

    def __init__(self, *pages: str | None) -> None:
        self._pages = list(pages)
        self.now = 1000.0

    def fetch(self, url: str, timeout: float) -> MetricsPage:
        text = self._pages.pop(0) if self._pages else None
        if text is None:
            raise PageError(f"{url} does not answer: connection refused")
        return parse_page(text, url)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def record(self, duration: float | None = None, patience: float = 0.0) -> Recording:
        return record_pages(
            ["http://x/metrics"],
            interval=1.0,
            duration=duration,
            patience=patience,
            timeout=5.0,
            fetch=self.fetch,
            clock=lambda: self.now,
            sleep=self.sleep,
        )


def _report(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def _get_spend(recording: Recording) -> float:
    summary: RunSummary = summarize_run(recording)
    return summary.totals.spend


def test_recording_ends_with_the_process() -> None:
    recording = Script(write_page(spent=1), write_page(spent=1.5), write_page(spent=2)).record()
    assert len(recording.times) == 3
    assert _get_spend(recording) == 1.0


def test_recording_waits_for_the_first_page() -> None:
    recording = Script(None, None, write_page(spent=1), write_page(spent=3)).record(patience=5)
    assert (len(recording.times), _get_spend(recording)) == (2, 2.0)
    with pytest.raises(PageError, match="connection refused"):
        Script(None, None, write_page()).record(patience=1)


def test_recording_spans_a_gap_and_a_restart() -> None:
    pages = (write_page(spent=1), write_page(spent=2), None, None, write_page(spent=0.5), write_page(spent=0.75))
    recording = Script(*pages).record()
    assert (len(recording.times), _get_spend(recording)) == (4, 1.75)
    assert recording.times[-1] - recording.times[0] == 5.0


def test_recording_of_a_duration_continues_without_pages() -> None:
    recording = Script(write_page(spent=1), *[None] * 6, write_page(spent=4), write_page(spent=9)).record(duration=8)
    assert (recording.times, _get_spend(recording)) == ([1000.0, 1007.0], 3.0)


def test_long_recording_keeps_its_counts() -> None:
    count = 3 * MAX_TIMES
    recording = Script(*[write_page(spent=number) for number in range(count)]).record()
    assert len(recording.times) <= MAX_TIMES
    assert (recording.times[0], recording.times[-1]) == (1000.0, 1000.0 + count - 1)
    assert _get_spend(recording) == count - 1


def test_ended_process_keeps_its_counts_when_thinned() -> None:
    recording = Recording("two processes")
    page = [parse_page(write_page(spent=number), "http://a/metrics") for number in range(10)]
    for number in range(MAX_TIMES + 1):
        recording.begin_time(float(number))
        recording.add_page(page[min(number, 9)]._replace(url="http://b/metrics"))
        if number < 10:
            recording.add_page(page[number])
    assert _get_spend(recording) == 18.0


@pytest.mark.parametrize(
    ("mode", "message"), [("other", "has no metrics of loco-otel"), ("garbage", "is no page of Prometheus")]
)
def test_page_of_another_program_is_an_error(mode: str, message: str, tmp_path: Path) -> None:
    with FaultyPage() as page:
        page.switch(mode)
        done = _report(page.url, "--out", tmp_path / "report.html")
    assert done.exit_code == 1
    assert f"Error: {page.url} {message}" in done.output
    assert list(tmp_path.iterdir()) == []


def test_absent_page_is_an_error(tmp_path: Path) -> None:
    page = FaultyPage()
    done = _report(page.url, "--out", tmp_path / "report.html")
    assert (done.exit_code, done.output) == (
        1,
        f"Error: {page.url} does not answer: [Errno 111] Connection refused\n",
    )


def test_process_without_calls_has_a_report(tmp_path: Path) -> None:
    with FaultyPage() as page:
        page.page = "# TYPE loco_active gauge\nloco_active 1\n"
        done = _report(page.url, "--duration", "0", "--out", tmp_path / "new" / "report.html")
    assert done.exit_code == 0, done.output
    assert "No call was made." in (tmp_path / "new" / "report.html").read_text()


def test_names_in_a_report_are_escaped(tmp_path: Path) -> None:
    with FaultyPage() as page:
        page.page = write_page().replace('loco_agent_id="analyst"', 'loco_agent_id="<script>alert(1)</script>"')
        done = _report(
            page.url, "--duration", "0.3", "--interval", "0.1", "--out", tmp_path / "r.html", "--title", "<b>"
        )
    assert done.exit_code == 0, done.output
    text = (tmp_path / "r.html").read_text()
    assert "<script" not in text
    assert "<b></title>" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_report_loads_nothing(tmp_path: Path) -> None:
    with FaultyPage() as page:
        assert _report(page.url, "--duration", "0.3", "--interval", "0.1", "--out", tmp_path / "r.html").exit_code == 0
    text = (tmp_path / "r.html").read_text()
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert {it.rstrip(".") for it in re.findall(r"https?://[^\s\"'<>)]+", text)} - namespaces == {page.url}
    assert "<script" not in text
    assert "<link" not in text.replace('<link rel="icon" href="data:,">', "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no span of loco-otel: were its traces exported"),
        ("no json\n", "is not OTLP in JSON, an export in each line: Expecting value"),
        ("[]\n", "line 1: an export is a JSON object"),
        (json.dumps({"resourceMetrics": []}), "has no span of loco-otel"),
        (
            json.dumps({"resourceSpans": [{"scopeSpans": [{"scope": {"name": "loco_otel"}, "spans": [{}]}]}]}),
            "is not OTLP in JSON: KeyError 'name' in a span",
        ),
        ("\udcff", "cannot be read"),
    ],
)
def test_file_without_traces_is_an_error(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(content, errors="surrogateescape")
    done = _report("--trace", file, "--out", tmp_path / "report.html")
    assert done.exit_code == 1
    assert done.output.startswith(f"Error: {file}")
    assert message in done.output


def test_pages_and_a_file_are_one_too_many(tmp_path: Path) -> None:
    (tmp_path / "trace.jsonl").write_text("{}")
    done = _report("http://x", "--trace", tmp_path / "trace.jsonl")
    assert done.exit_code == 2
    assert "not both" in done.output


def test_report_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with FaultyPage() as page:
        done = _report(page.url, "--duration", "0", "--out", tmp_path / "report.html")
    assert done.exit_code == 1
    assert "pip install 'loco-otel[plot]'" in done.output
