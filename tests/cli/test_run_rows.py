"""The rows of `loco-otel ps --by run`, from a page."""

import io

from prometheus_client.parser import text_string_to_metric_families

from loco_otel._introspection.tables import make_console
from loco_otel.cli.run_rows import RunRow, build_run_rows, print_runs

PAGE = """
# TYPE loco_runs_active gauge
loco_runs_active{gen_ai_workflow_name="digest",loco_priority="normal"} 3
# TYPE loco_run_duration_seconds histogram
loco_run_duration_seconds_bucket{gen_ai_workflow_name="digest",loco_priority="normal",le="+Inf"} 4
loco_run_duration_seconds_count{gen_ai_workflow_name="digest",loco_priority="normal"} 4
loco_run_duration_seconds_sum{gen_ai_workflow_name="digest",loco_priority="normal"} 20
loco_run_duration_seconds_bucket{gen_ai_workflow_name="crawl",loco_priority="background",le="+Inf"} 1
loco_run_duration_seconds_count{gen_ai_workflow_name="crawl",loco_priority="background"} 1
loco_run_duration_seconds_sum{gen_ai_workflow_name="crawl",loco_priority="background"} 9
# TYPE loco_run_wait_seconds histogram
loco_run_wait_seconds_count{gen_ai_workflow_name="digest",loco_priority="normal"} 4
loco_run_wait_seconds_sum{gen_ai_workflow_name="digest",loco_priority="normal"} 10
# TYPE loco_run_slowdown histogram
loco_run_slowdown_count{gen_ai_workflow_name="digest",loco_priority="normal"} 4
loco_run_slowdown_sum{gen_ai_workflow_name="digest",loco_priority="normal"} 8
# TYPE loco_requests_active gauge
loco_requests_active{loco_agent_id="a",loco_resource_name="llm_api"} 2
"""


def read(page: str) -> list[RunRow]:
    return build_run_rows(sample for family in text_string_to_metric_families(page) for sample in family.samples)


def test_runs_are_shown_by_workflow_and_priority() -> None:
    assert read(PAGE) == [
        RunRow("digest", "normal", 3, 4, 5.0, 2.5, 2.0),
        RunRow("crawl", "background", 0, 1, 9.0, None, None),
    ]


def test_table_has_a_dash_for_what_is_not_known() -> None:
    written = io.StringIO()
    print_runs(read(PAGE), make_console(written))
    print_runs([], make_console(written))
    lines = [line.split() for line in written.getvalue().splitlines()]
    assert lines[1] == ["digest", "normal", "3", "4", "5.0", "s", "2.5", "s", "2.00"]
    assert lines[2] == ["crawl", "background", "0", "1", "9.0", "s", "-", "-"]
    assert lines[3][:2] == ["no", "runs:"]
