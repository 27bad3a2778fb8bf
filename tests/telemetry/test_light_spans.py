"""Light spans equal the tracer's own, whatever the sampler, the processors, and what the program does with them."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import Meter, NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_ON,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, NoOpTracer, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from loco_otel._telemetry import light_span_check
from loco_otel._telemetry.light_span_check import is_supported
from loco_otel._telemetry.light_spans import LightSpan, LightTracer
from loco_otel._telemetry.span_starter import SpanStarter, create_span_starter


class Ids(IdGenerator):
    def __init__(self) -> None:
        self._last = 1 << 60

    def generate_span_id(self) -> int:
        self._last += 12345
        return self._last

    def generate_trace_id(self) -> int:
        return self.generate_span_id()


class Adding(Sampler):
    """Adds attributes and a trace state, and records without sampling."""

    def __init__(self, decision: Decision) -> None:
        self._decision = decision

    def should_sample(self, *args: Any, **named: Any) -> SamplingResult:
        given = (named["attributes"] if named else args[4]) or {}
        attributes = {**given, "sampler.list": ["a"], "sampler.seen": len(given)}
        return SamplingResult(self._decision, attributes, TraceState([("vendor", "1")]))

    def get_description(self) -> str:
        return "Adding"


class Processor(SpanProcessor):
    """As a program's own: sets attributes as a span starts, and redacts them by private names as it ends."""

    def __init__(self, *, reads: bool) -> None:
        self._reads = reads
        """Whether it reads the attributes at the start, which makes the container of a light span."""
        self.ended: list[ReadableSpan] = []
        self.calls: list[object] = []

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        self.calls.append((span.name, span.start_time, parent_context is None))
        if self._reads:
            self.calls.append(dict(span.attributes or {}))
        span.set_attribute("processor", span.kind.name)

    def _on_ending(self, span: SdkSpan) -> None:
        self.calls.append(span.is_recording())

    def on_end(self, span: ReadableSpan) -> None:
        # As exporters do, which make no container of a light span.
        self.calls.append((repr([*(span.attributes or {}).items()]), len(span.events), len(span.links)))
        self.calls.append((span.dropped_attributes, span.dropped_events, span.dropped_links))
        attributes: Any = span._attributes
        self.calls.append((attributes._immutable, attributes.maxlen, type(span._events), type(span._links)))
        attributes._immutable = False
        attributes["a"] = "redacted"
        del attributes["a"]
        self.ended.append(span)


SAMPLERS = {
    "on": ALWAYS_ON,
    "default": DEFAULT_ON,
    "off": ALWAYS_OFF,
    "half": TraceIdRatioBased(0.5),
    "adding": Adding(Decision.RECORD_AND_SAMPLE),
    "recording": Adding(Decision.RECORD_ONLY),
    "half of the roots": ParentBasedTraceIdRatio(0.5),
    "no children": ParentBased(ALWAYS_ON, local_parent_sampled=ALWAYS_OFF),
    "adding to children": ParentBased(ALWAYS_ON, local_parent_sampled=Adding(Decision.RECORD_AND_SAMPLE)),
}
PARENTS = {
    "none": Context(),
    "sampled": SpanContext(5, 6, is_remote=False, trace_flags=TraceFlags(1)),
    "unsampled": SpanContext(5, 6, is_remote=True, trace_flags=TraceFlags(0)),
    "random": SpanContext(5, 6, is_remote=True, trace_flags=TraceFlags(3), trace_state=TraceState([("a", "b")])),
    "local": SpanContext(5, 6, is_remote=False, trace_flags=TraceFlags(3), trace_state=TraceState([("a", "b")])),
    "invalid": SpanContext(0, 0, is_remote=False),
}


_values = st.one_of(
    st.text(max_size=3), st.integers(), st.floats(allow_nan=False), st.booleans(), st.none(), st.binary(max_size=2),
    st.lists(st.text(max_size=2), max_size=2), st.tuples(st.text(max_size=2)), st.lists(st.integers(), max_size=2),
    st.tuples(st.integers(), st.text(max_size=1)), st.tuples(st.floats(allow_nan=False)),
    st.sampled_from([StatusCode.OK]),
)  # fmt: skip
_attributes = st.dictionaries(st.sampled_from(["a", "b", "c", "d", ""]), _values, max_size=4)
_LINKED = SpanContext(7, 8, is_remote=False, trace_flags=TraceFlags(1))
_steps = st.lists(
    st.one_of(
        st.builds(lambda given: lambda span: span.set_attributes(given), _attributes),
        st.builds(lambda name, value: lambda span: span.set_attribute(name, value), st.sampled_from("abc"), _values),
        st.builds(lambda given: lambda span: span.add_event("event", given, 7), _attributes),
        st.builds(lambda given: lambda span: span.add_link(_LINKED, given), _attributes),
        st.just(lambda span: span.set_status(StatusCode.ERROR, "why")),
        st.just(lambda span: span.set_status(Status(StatusCode.OK))),
        st.just(lambda span: span.record_exception(ValueError("text"), timestamp=8)),
        st.just(lambda span: span.update_name("renamed")),
        st.just(lambda span: span.end(10)),
        st.just(lambda span: dict(span.attributes)),
    ),
    max_size=8,
)


def _create(
    sampler: Sampler, limits: SpanLimits | None = None, *, light: bool, reads: bool = False
) -> tuple[SpanStarter, Processor]:
    provider = TracerProvider(sampler, shutdown_on_exit=False, id_generator=Ids(), span_limits=limits)
    processor = Processor(reads=reads)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("loco_otel", "1", attributes={"scope": 1})
    return (LightTracer(tracer) if light else tracer), processor


def _describe(processor: Processor) -> list[object]:
    return [
        processor.calls,
        [repr((span.name, span.kind, span.status.status_code, span.status.description)) for span in processor.ended],
        [repr((span.start_time, span.end_time, [*(span.attributes or {}).items()])) for span in processor.ended],
        [repr([(e.name, e.timestamp, dict(e.attributes or {})) for e in span.events]) for span in processor.ended],
        [repr([(link.context, dict(link.attributes or {})) for link in span.links]) for span in processor.ended],
        [(span.context, span.parent, span.instrumentation_scope, span.resource) for span in processor.ended],
        [(span.dropped_attributes, span.dropped_events, span.dropped_links) for span in processor.ended],
    ]


def _run(
    light: bool,
    sampler: Sampler,
    parent: object,
    start: Any,
    steps: Sequence[Callable[[Any], Any]] = (),
    reads: bool = False,
) -> Any:
    starter, processor = _create(sampler, light=light, reads=reads)
    context = parent
    if isinstance(parent, SpanContext):
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())
    span = starter.start_span("span", context, SpanKind.CLIENT, *start)  # type: ignore[arg-type]
    with trace.use_span(span):
        results = [type(step(span)) for step in steps] if span.is_recording() else []
    was_recording = span.is_recording()
    span.end(12)
    return [results, was_recording, span.get_span_context(), span.is_recording(), *_describe(processor)]


def test_sdk_passes_the_self_check() -> None:
    assert is_supported()


@pytest.mark.parametrize("parent", PARENTS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_new_span_equals_that_of_the_tracer(sampler: str, parent: str) -> None:
    for start in (None, (), 1), ({"a": "b", "n": (1, 2), "t": ("x",)}, (Link(_LINKED, {"k": 1}),), 3), ({}, None, 2):
        fresh = [Link(link.context, dict(link.attributes or {})) for link in start[1] or ()]
        results = [
            _run(light, SAMPLERS[sampler], PARENTS[parent], (start[0], [*fresh], start[2]), reads=True)
            for light in (True, False)
        ]
        assert results[0] == results[1]


@pytest.mark.filterwarnings("ignore")
@example(steps=[lambda span: span.set_attributes({"b": 2, "d": 3})], attributes={"b": 1, "c": 1}, reads=False)
@example(steps=[lambda span: span.set_attribute("b", 2)], attributes={"b": 1, "c": 1}, reads=False)
@given(steps=_steps, attributes=_attributes, reads=st.booleans())
def test_changed_span_equals_that_of_the_tracer(
    steps: Sequence[Callable[[Any], Any]], attributes: dict[str, object], reads: bool
) -> None:
    results = [_run(light, ALWAYS_ON, Context(), (attributes, (), 1), steps, reads) for light in (True, False)]
    assert results[0] == results[1]


def test_error_in_a_current_span_is_recorded_alike() -> None:
    described = []
    for light in (True, False):
        starter, processor = _create(ALWAYS_ON, light=light)
        span = starter.start_span("span", Context())
        with pytest.raises(ValueError, match="text"), trace.use_span(span, end_on_exit=True):
            raise ValueError("text")
        (ended,) = processor.ended
        described.append((ended.status.status_code, ended.status.description, [event.name for event in ended.events]))
    assert described[0] == described[1]
    assert described[0][2] == ["exception"]


def test_attributes_above_the_limit_drop_the_oldest_alike() -> None:
    described = []
    for light in (True, False):
        starter, processor = _create(ALWAYS_ON, SpanLimits(max_span_attributes=70, max_events=1), light=light)
        span = starter.start_span("span", Context(), attributes={"first": 1, "second": 2}, start_time=1)
        for number in range(40):
            span.set_attributes({f"a{number}": number, f"b{number}": "x"})
            span.set_attribute(f"c{number}", 0.5)
            span.add_event(f"event {number}", timestamp=2)
        span.end(3)
        described.append(_describe(processor))
    assert described[0] == described[1]


@pytest.mark.parametrize("sampled", [None, {}])
def test_sampler_without_attributes_starts_a_span(sampled: Any) -> None:
    class Bare(Adding):
        def should_sample(self, *args: Any, **_: Any) -> SamplingResult:
            result = SamplingResult(Decision.RECORD_AND_SAMPLE)
            result.attributes = sampled
            return result

    sampler = Bare(Decision.RECORD_AND_SAMPLE)
    assert _run(True, sampler, Context(), (None, (), 1)) == _run(False, sampler, Context(), (None, (), 1))


@pytest.mark.parametrize("is_light_first", [True, False])
def test_resource_of_a_span_is_one_with_that_of_its_provider(is_light_first: bool) -> None:
    provider = TracerProvider(shutdown_on_exit=False, resource=Resource({"service.name": "program"}))
    processor = Processor(reads=False)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("program")
    for starter in (LightTracer(tracer), tracer, LightTracer(tracer)):
        starter.start_span("span", Context()).end()
    resources = [span.resource for span in processor.ended]
    assert len(dict.fromkeys(resources if is_light_first else resources[1:])) == 1
    assert Resource({"service.name": "other"}) not in resources


def test_default_times_are_those_of_the_wall_clock() -> None:
    starter, processor = _create(ALWAYS_ON, light=True)
    starter.start_span("span", Context()).end()
    (span,) = processor.ended
    assert 1e18 < (span.start_time or 0) <= (span.end_time or 0)


@pytest.mark.parametrize(
    "limits",
    [SpanLimits(max_attribute_length=9), SpanLimits(max_span_attribute_length=9), SpanLimits(max_attributes=9)],
)
def test_limited_attributes_are_left_to_the_tracer(limits: SpanLimits) -> None:
    tracer = TracerProvider(shutdown_on_exit=False, span_limits=limits).get_tracer("program")
    assert create_span_starter(tracer) is tracer


def test_self_check_ignores_limits_and_meters_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []

    class Meters(NoOpMeterProvider):
        def get_meter(self, name: str, *args: Any, **kwargs: Any) -> Meter:
            used.append(name)
            return super().get_meter(name, *args, **kwargs)

    monkeypatch.setattr(metrics, "get_meter_provider", Meters)
    monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    for name in "SPAN_ATTRIBUTE_COUNT", "SPAN_EVENT_COUNT", "SPAN_LINK_COUNT", "ATTRIBUTE_VALUE_LENGTH":
        monkeypatch.setenv(f"OTEL_{name}_LIMIT", "none of the program's")
    is_supported.cache_clear()
    try:
        assert is_supported()
    finally:
        is_supported.cache_clear()
    assert not used


def test_limits_are_compared_before_the_self_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(light_span_check, "is_supported", lambda: pytest.fail("checked"))
    limits = SpanLimits(max_attributes=9)
    tracer = TracerProvider(shutdown_on_exit=False, span_limits=limits).get_tracer("program")
    assert create_span_starter(tracer) is tracer


def test_other_tracer_starts_its_own_spans() -> None:
    tracer = NoOpTracer()
    assert create_span_starter(tracer) is tracer


def test_failed_self_check_leaves_spans_to_the_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("program")
    assert isinstance(create_span_starter(tracer), LightTracer)
    is_supported.cache_clear()
    monkeypatch.setattr(LightSpan, "_readable_span", SdkSpan.end)
    try:
        assert create_span_starter(tracer) is tracer
    finally:
        is_supported.cache_clear()


def test_container_that_threads_make_at_once_keeps_all() -> None:
    starter, processor = _create(ALWAYS_ON, light=True)
    for _ in range(50):
        span: Any = starter.start_span("span", Context(), attributes={"first": 0})
        start = threading.Barrier(3)

        def work(name: str, span: Any = span, start: threading.Barrier = start) -> None:
            start.wait()
            for number in range(10):
                span.set_attribute(f"{name}{number}", number)
                assert span.attributes[f"{name}{number}"] == number
                span.set_attribute(f"{name} list {number}", [number])

        threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        span.end()
    assert {len(span.attributes or {}) for span in processor.ended} == {62}
