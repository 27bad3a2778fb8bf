"""semconv/loco.yaml is made from the catalogue, and what is emitted matches it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode
from semconv_check import check, exported
from semconv_registry import ROOT, Registry
from telemetry_scenario import Rig, everything

from loco_otel._telemetry import registry as generator
from loco_otel._telemetry.attributes import ATTRIBUTES
from loco_otel._telemetry.catalogue import METRICS, SPANS

PATH = ROOT / "loco.yaml"
ACQUIRED: dict[str, Any] = {
    "loco.agent.id": "analyst",
    "loco.resource.name": "llm_api",
    "loco.task.weight": 1.0,
    "loco.task.type": "chat",
    "loco.policy": "load",
    "loco.outcome": "granted",
    "loco.wait.duration": 0.5,
    "loco.wait.ticks": 3,
    "loco.priority": "normal",
}
REQUEST = {"loco.agent.id": "analyst", "loco.resource.name": "llm_api", "loco.outcome": "granted"}


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.load(ROOT)


def test_registry_is_current() -> None:
    assert generator.main([str(PATH), "--check"]) == 0


def test_stale_registry_is_reported_and_rewritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "loco.yaml"
    assert generator.main([str(path), "--check"]) == 1
    assert f"{path} is stale: run `python -m loco_otel._telemetry.registry {path}`" in capsys.readouterr().err
    assert generator.main([str(path)]) == 0
    assert generator.main([str(path), "--check"]) == 0


def test_yaml_is_parsed_as_meant() -> None:
    assert yaml.safe_load(generator.render_registry()) == json.loads(json.dumps(generator.build_registry()))


@pytest.mark.parametrize("value", ["true", "no", "null", "a: b", "# c", "{request}", "'", '"', "é", "1.0", ""])
def test_words_stay_words(value: str) -> None:
    assert yaml.safe_load(generator._format_scalar(value)) == value


def test_registry_is_complete(registry: Registry) -> None:
    assert registry.metrics.keys() == {row.name for row in METRICS}
    assert registry.events.keys() == {event.name for row in SPANS for event in row.events}
    assert len({form.type for form in registry.spans}) == len(SPANS)
    for key, row in ATTRIBUTES.items():
        # Of what others define, too: there the replacements define what is right.
        assert registry.attributes[key].type == row.type, key
        assert not row.values or registry.attributes[key].values >= set(row.values), key


def test_only_our_own_names_are_defined() -> None:
    document = yaml.safe_load(PATH.read_text(encoding="utf-8"))
    for section, name in (("attributes", "key"), ("spans", "type"), ("events", "name"), ("metrics", "name")):
        names = [row[name] for row in document[section]]
        assert len(names) == len(set(names))
        # The conventions do not have the cost yet.
        assert all(re.fullmatch(r"(loco|gen_ai\.usage\.cost)(\.[a-z_]+)+", each) for each in names)
        assert {row["stability"] for row in document[section]} == {"development"}
        assert all(row["brief"] for row in document[section])


def test_no_attribute_is_a_namespace_too(registry: Registry) -> None:
    # Weaver refuses `loco.wait` beside `loco.wait.ticks`.
    keys = [f"{key}." for key in registry.attributes]
    assert not [key for key in keys for other in keys if other != key and other.startswith(key)]


def test_undefined_name_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.yaml").write_text((ROOT / "manifest.yaml").read_text())
    (tmp_path / "loco.yaml").write_text(
        PATH.read_text().replace("ref: gen_ai.conversation.id", "ref: gen_ai.conversation.i")
    )
    with pytest.raises(KeyError, match=r"gen_ai\.conversation\.i'"):
        Registry.load(tmp_path)


def test_emitted_telemetry_matches_the_registry(registry: Registry) -> None:
    rig = Rig()
    everything(rig)
    findings = check(registry, rig.spans(), rig.metrics().values())
    assert findings.violations == []
    assert findings.seen == registry.names()


@pytest.mark.parametrize(
    ("name", "attributes", "span_type"),
    [
        ("acquire llm_api", {}, "loco.acquire"),
        ("call analyst", {}, "loco.call"),
        ("chat gpt-4o", {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o"}, "loco.operation"),
        ("embeddings", {"gen_ai.operation.name": "embeddings"}, "loco.operation"),
        ("chat gpt-4o", {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4"}, None),
        ("chat", {}, None),
    ],
)
def test_span_is_identified_by_its_name(
    registry: Registry, name: str, attributes: dict[str, str], span_type: str | None
) -> None:
    form = registry.span(name, attributes)
    assert (form and form.type) == span_type


def test_names_of_the_conventions_are_referenced(registry: Registry) -> None:
    text = PATH.read_text(encoding="utf-8")
    defined = [line for line in text.splitlines() if "key: gen_ai." in line]
    assert all("gen_ai.usage.cost." in line for line in defined)
    assert "name: gen_ai." not in text
    # Its unit is in the registry of others alone.
    assert registry.metrics["gen_ai.client.token.usage"].unit == "{token}"


def spans(emit: Callable[[Span], object] = lambda _: None, **changes: Any) -> tuple[ReadableSpan, ...]:
    """Return an acquire span with something changed."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    options = {"name": "acquire llm_api", "kind": SpanKind.INTERNAL, "attributes": ACQUIRED} | changes
    with provider.get_tracer("planted").start_as_current_span(**options) as span:
        emit(span)
    return exporter.get_finished_spans()


def metrics(emit: Callable[[Meter], object]) -> tuple[Metric, ...]:
    reader = InMemoryMetricReader()
    emit(MeterProvider([reader], shutdown_on_exit=False).get_meter("planted"))
    return tuple(exported(reader.get_metrics_data()))


def count_request(meter: Meter, unit: str = "{request}", **attributes: Any) -> None:
    meter.create_counter("loco.acquire.requests", unit).add(1, REQUEST | attributes)


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in ACQUIRED.items() if name != key}


def test_valid_telemetry_passes(registry: Registry) -> None:
    throttled = {"http.response.status_code": 429, "loco.throttle.kind": "load"}
    assert check(
        registry,
        spans(lambda span: span.add_event("loco.throttle", throttled)),
        metrics(count_request),
    ) == ([], {"span loco.acquire", "event loco.throttle", "metric loco.acquire.requests"})


@pytest.mark.parametrize(
    ("planted", "violation"),
    [
        (spans(name="seize llm_api"), "span seize llm_api: not declared"),
        (spans(name="acquire search"), "named so, not acquire llm_api"),
        (spans(kind=SpanKind.CLIENT), "kind client, not internal"),
        (spans(attributes=without("loco.outcome")), "no loco.outcome"),
        (spans(attributes=ACQUIRED | {"loco.outcom": "granted"}), "loco.outcom: not declared"),
        (spans(attributes=ACQUIRED | {"loco.gate.cause": "x"}), "loco.gate.cause: not declared"),
        (spans(attributes=ACQUIRED | {"loco.outcome": "given"}), "loco.outcome: 'given' is none of its values"),
        (spans(attributes=ACQUIRED | {"loco.wait.ticks": 3.0}), "loco.wait.ticks: 3.0 is no int"),
        (spans(attributes=ACQUIRED | {"loco.wait.ticks": True}), "loco.wait.ticks: True is no int"),
        (spans(attributes=ACQUIRED | {"loco.task.weight": 1}), "loco.task.weight: 1 is no double"),
        (spans(attributes=ACQUIRED | {"loco.task.type": ["a"]}), "loco.task.type: ('a',) is no string"),
        (spans(attributes=ACQUIRED | {"gen_ai.request.model": 4}), "gen_ai.request.model: 4 is no string"),
        (spans(lambda span: span.set_status(StatusCode.ERROR)), "status ERROR without error.type"),
        (spans(attributes=ACQUIRED | {"error.type": "timeout"}), "status UNSET with error.type"),
        (spans(lambda span: span.add_event("loco.weight")), "event loco.weight: not declared"),
        (
            spans(lambda span: span.add_event("loco.budget", {}), name="call analyst", attributes={}),
            "event loco.budget: not declared",
        ),
        (
            spans(lambda span: span.add_event("loco.throttle", {"http.response.status_code": 429})),
            "event loco.throttle: no loco.throttle.kind",
        ),
        (
            spans(lambda span: span.add_event("loco.throttle", {"http.response.status_code": "429"})),
            "event loco.throttle: http.response.status_code: '429' is no int",
        ),
    ],
)
def test_planted_fault_of_a_span_is_found(
    registry: Registry, planted: tuple[ReadableSpan, ...], violation: str
) -> None:
    assert any(violation in each for each in check(registry, planted).violations)


@pytest.mark.parametrize(
    ("plant", "violation"),
    [
        (lambda meter: meter.create_counter("loco.acquired", "{request}").add(1), "metric loco.acquired: not declared"),
        (lambda meter: count_request(meter, "1"), "unit 1, not {request}"),
        (
            lambda meter: meter.create_up_down_counter("loco.acquire.requests", "{request}").add(1, REQUEST),
            "updowncounter, not counter",
        ),
        (
            lambda meter: meter.create_histogram("loco.acquire.requests", "{request}").record(1, REQUEST),
            "histogram, not counter",
        ),
        (lambda meter: meter.create_gauge("loco.acquire.requests", "{request}").set(1, REQUEST), "gauge, not counter"),
        (
            lambda meter: meter.create_histogram("loco.wait.duration", "s").record(1, REQUEST),
            "bounds (0.0, 5.0, 10.0",
        ),
        (
            lambda meter: meter.create_counter("loco.acquire.requests", "{request}").add(1),
            "no loco.agent.id",
        ),
        (lambda meter: count_request(meter, ticket="ticket-1"), "ticket: not declared"),
        (
            lambda meter: count_request(meter, **{"loco.outcome": "given"}),
            "loco.outcome: 'given' is none of its values",
        ),
        (lambda meter: count_request(meter, **{"loco.agent.id": 7}), "loco.agent.id: 7 is no string"),
    ],
)
def test_planted_fault_of_a_metric_is_found(
    registry: Registry, plant: Callable[[Meter], object], violation: str
) -> None:
    assert any(violation in each for each in check(registry, metrics=metrics(plant)).violations)
