"""The slots that a report draws: those of a shared engine once, others of each process."""

import pytest

from loco_otel.cli.metrics_page import MetricsPage, parse_page
from loco_otel.cli.report.figures import draw_plots
from loco_otel.cli.report.recording import Recording
from loco_otel.cli.report.summary import summarize_run


def _read(url: str, mode: str | None, **capacities: int) -> MetricsPage:
    lines = ["# TYPE loco_engine_mode gauge"]
    if mode is not None:
        modes = ("remote", "local", "open", "closed")
        lines += [f'loco_engine_mode{{loco_engine_mode="{it}"}} {int(it == mode)}' for it in modes]
    lines.append("# TYPE loco_resource_capacity gauge")
    lines += [f'loco_resource_capacity{{loco_resource_name="{name}"}} {it}' for name, it in capacities.items()]
    return parse_page("\n".join((*lines, "")), url)


def _record(*times: list[MetricsPage]) -> Recording:
    recording = Recording("several processes")
    for at, pages in enumerate(times):
        recording.begin_time(float(at))
        for page in pages:
            recording.add_page(page)
    return recording


@pytest.mark.parametrize(
    ("processes", "capacity"),
    [
        ([("remote", 4), ("remote", 4), ("remote", 4)], 4.0),
        ([("remote", 4), ("remote", 4), ("local", 1)], 5.0),
        ([(None, 2), (None, 2)], 4.0),
    ],
)
def test_slots_of_a_shared_engine_are_drawn_once(processes: list[tuple[str | None, int]], capacity: float) -> None:
    pages = [_read(f"http://{number}/metrics", mode, llm=own) for number, (mode, own) in enumerate(processes)]
    recording = _record(pages, pages)
    slots = next(plot for plot in draw_plots(recording, summarize_run(recording)) if plot.name == "slots")
    assert f"slots, at most {capacity:g}" in slots.svg


def test_capacity_follows_processes_and_modes() -> None:
    shared = [_read("http://a/metrics", "remote", llm=4, search=2), _read("http://b/metrics", "remote", llm=4)]
    away = [_read("http://a/metrics", "local", llm=2, search=2), _read("http://b/metrics", "local", llm=1)]
    assert _record(shared[:1], shared, away, [], away[1:], shared).sum_capacity() == [6, 6, 5, 0, 1, 6]
