"""The run that spans describe: which calls held slots when, with retries and with another's inference spans."""

import json
from pathlib import Path
from typing import Any

from loco_otel.cli.report.otlp_file import read_spans
from loco_otel.cli.report.summary import summarize_run
from loco_otel.cli.report.traces import list_holds, record_spans


def _write_value(value: Any) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case list():
            return {"arrayValue": {"values": [_write_value(it) for it in value]}}
        case _:
            return {"stringValue": value}


def _write_attributes(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _write_value(value)} for key, value in attributes.items()]


def _write_span(name: str, start: float, end: float, *throttles: float, **attributes: Any) -> dict[str, Any]:
    spelled = {key.replace("__", "."): value for key, value in attributes.items()}
    return {
        "name": name,
        "spanId": "00f067aa0ba902b7",
        "parentSpanId": "a3ce929d0e0e4736",
        "startTimeUnixNano": str(int(start * 1e9)),
        "endTimeUnixNano": str(int(end * 1e9)),
        "attributes": _write_attributes({"loco.agent.id": "analyst", **spelled} if name != "theirs" else spelled),
        "events": [
            {
                "name": "loco.throttle",
                "timeUnixNano": str(int(at * 1e9)),
                "attributes": _write_attributes({"loco.throttle.kind": "load", "http.response.status_code": 429}),
            }
            for at in throttles
        ],
    }


def _write_acquire(start: float, end: float, *throttles: float, **attributes: Any) -> dict[str, Any]:
    facts = {"loco__resource__name": "llm", "loco__outcome": "granted", "loco__wait__duration": end - start}
    return _write_span("acquire llm", start, end, *throttles, **{**facts, **attributes})


def _write_file(path: Path, own: list[dict[str, Any]], others: list[dict[str, Any]] = []) -> Path:  # noqa: B006
    scopes = [
        {"scope": {"name": "loco_otel"}, "spans": own},
        {"scope": {"name": "another"}, "spans": [*others, _write_span("theirs", 0, 9)]},
    ]
    path.write_text(json.dumps({"resourceSpans": [{"resource": {}, "scopeSpans": scopes}]}) + "\n\n")
    return path


def _list_times(path: Path) -> list[tuple[float, float]]:
    return [(hold.start, hold.end) for hold in list_holds(read_spans(path))]


def test_paused_call_holds_no_slot(tmp_path: Path) -> None:
    call = _write_span("chat gpt", 1, 6, 2, http__request__resend_count=1)
    path = _write_file(tmp_path / "t.jsonl", [_write_acquire(0, 1), call, _write_acquire(3, 4)])
    assert _list_times(path) == [(1, 2), (4, 6)]


def test_call_that_fails_by_a_refusal_releases_once(tmp_path: Path) -> None:
    path = _write_file(tmp_path / "t.jsonl", [_write_acquire(0, 1), _write_span("chat gpt", 1, 2, 2)])
    assert _list_times(path) == [(1, 2)]


def test_call_of_another_tool_holds_until_its_span_ends(tmp_path: Path) -> None:
    others = [_write_span("theirs", 0, 6, loco__wait__duration=1.0)]
    own = [_write_acquire(0, 1, 2), _write_acquire(3, 4, loco__spend__weight=1.0, loco__spend__usd=0.5)]
    assert _list_times(_write_file(tmp_path / "t.jsonl", own, others)) == [(1, 2), (4, 6)]


def test_call_whose_end_is_unknown_is_left_out(tmp_path: Path) -> None:
    assert _list_times(_write_file(tmp_path / "t.jsonl", [_write_acquire(0, 1)])) == []


def test_rejected_request_holds_no_slot(tmp_path: Path) -> None:
    own = [_write_acquire(0, 1, loco__outcome="timeout"), _write_acquire(0, 2), _write_span("chat gpt", 2, 3)]
    path = _write_file(tmp_path / "t.jsonl", own)
    assert _list_times(path) == [(2, 3)]
    assert summarize_run(record_spans(read_spans(path), "a file")).totals.rejected == 1


def test_figures_of_spans_are_exact(tmp_path: Path) -> None:
    blame = {"loco__blame__agents": ["crawler", "other"], "loco__blame__seconds": [0.75, 0.25]}
    own = [
        _write_acquire(0, 1, loco__wait__time__slot=1.0, loco__resource__capacity=2, **blame),
        _write_span(
            "chat gpt", 1, 3, loco__spend__weight=1.0, loco__spend__usd=0.125, gen_ai__usage__input_tokens=7,
            gen_ai__usage__output_tokens=5, gen_ai__request__model="gpt", gen_ai__provider__name="openai",
        ),
        _write_acquire(0.5, 1.5, loco__wait__time__backoff=0.5, loco__wait__time__self=0.5),
        _write_span("chat gpt", 1.5, 2, 2, loco__spend__weight=1.0, loco__spend__usd=0.25),
    ]  # fmt: skip
    summary = summarize_run(record_spans(read_spans(_write_file(tmp_path / "t.jsonl", own)), "a file"))
    totals = summary.totals
    assert (totals.decided, totals.spend, totals.input_tokens, totals.output_tokens) == (2, 0.375, 7, 5)
    assert (summary.refused, summary.most_waiting, summary.most_active, totals.held) == (1, 2, 2, 2.5)
    assert totals.waited == 2.0
    assert summary.causes == {
        ("analyst", "crawler"): 0.75,
        ("analyst", "other"): 0.25,
        ("analyst", "the provider's pause"): 0.5,
        ("analyst", "itself"): 0.5,
    }
