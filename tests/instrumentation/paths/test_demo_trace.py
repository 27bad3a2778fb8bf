"""The demo's program, received over OTLP by a receiver that others wrote: one trace shows one call as a whole."""

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from receivers import OtelTap
from sdk_program import Running, environ, script
from sdk_server import LlmServer

NEWSROOM = Path(__file__).parents[3] / "examples" / "newsroom.py"

Trace = Mapping[str, list[Mapping[str, Any]]]
"""Spans of one call, by the first word of their names."""


def _read_attributes(span: Mapping[str, Any]) -> dict[str, Any]:
    return {it["key"]: next(iter(it["value"].values())) for it in span["attributes"]}


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Mapping[str, Any]]]:
    """Run the program on two slots, and return what the receiver has printed."""
    folder = tmp_path_factory.mktemp("demo")
    with LlmServer(folder / "server.txt", "--latency-ms", "60") as server, OtelTap(folder) as tap:
        settings = {
            "LOCO_CAPACITY": "2",
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{tap.port}",
        }
        with Running(
            [script("opentelemetry-instrument"), sys.executable, NEWSROOM], folder, {**environ(server), **settings}
        ) as program:
            program.ends_well()
        tap.until(lambda: sum(span["name"].startswith("acquire ") for span in tap.spans()) == 54)
        yield tap.spans()


def test_trace_of_a_call_has_acquire_wait_grant_and_spend(spans: list[Mapping[str, Any]]) -> None:
    traces: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for span in spans:
        traces[span["traceId"]].append(span)
    assert len(traces) == 4, "one of each agent"
    agents = {}
    for trace in traces.values():
        (root,) = [it for it in trace if it["name"].startswith("invoke_agent ")]
        agents[root["name"].removeprefix("invoke_agent ")] = trace
    assert agents.keys() == {"analyst", "writer", "critic", "crawler"}

    # One call at a time, so that each acquire span is followed by its inference span.
    analyst = sorted(agents["analyst"], key=lambda it: int(it["startTimeUnixNano"]))
    (root,) = [it for it in analyst if it["name"] == "invoke_agent analyst"]
    calls = [it for it in analyst if it is not root]
    assert [it["name"] for it in calls] == ["acquire llm_api", "chat gpt-4.1"] * 6
    for acquire, inference in zip(calls[::2], calls[1::2], strict=True):
        assert acquire["parentSpanId"] == inference["parentSpanId"] == root["spanId"]
        waited, spent = _read_attributes(acquire), _read_attributes(inference)
        # Acquire and grant.
        assert (waited["loco.agent.id"], waited["loco.outcome"]) == ("analyst", "granted")
        assert waited["loco.grant.reason"] in {"free", "score", "guard"}
        # Wait: as long as the span, and before the call.
        length = (int(acquire["endTimeUnixNano"]) - int(acquire["startTimeUnixNano"])) / 1e9
        assert float(waited["loco.wait.duration"]) == pytest.approx(length, abs=0.05)
        assert int(acquire["endTimeUnixNano"]) <= int(inference["startTimeUnixNano"]) + 1_000_000
        # Spend.
        assert float(spent["loco.spend.usd"]) > 0
        assert spent["loco.spend.estimated"] is False
        assert int(spent["gen_ai.usage.output_tokens"]) > 0
    assert any("loco.blame.agents" in _read_attributes(it) for it in calls[::2]), "it waited for others"


def test_every_call_of_the_demo_is_received(spans: list[Mapping[str, Any]]) -> None:
    spent = [it for it in spans if "loco.spend.usd" in _read_attributes(it)]
    assert len(spent) == 54
    assert len({(it["traceId"], it["spanId"]) for it in spans}) == len(spans)
