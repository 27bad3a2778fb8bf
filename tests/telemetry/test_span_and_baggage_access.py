"""The fast access to a context's span and baggage returns what OpenTelemetry's API returns."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, SpanContext

from loco_otel._telemetry import current_context
from loco_otel._telemetry.current_context import get_baggage, get_span, read_attributes

SDK_SPAN = TracerProvider(shutdown_on_exit=False).get_tracer("program").start_span("work")
NO_SPAN: object = "of another type"
SPANS = [SDK_SPAN, NonRecordingSpan(SpanContext(1, 2, is_remote=True)), INVALID_SPAN, NO_SPAN, None]


@pytest.mark.parametrize("span", SPANS, ids=["sdk", "remote", "invalid", "no span", "none"])
def test_span_of_a_context_is_that_of_the_api(span: object) -> None:
    within = context.set_value(current_context._SPAN_KEY, span, Context({"other": 1}))
    for _ in range(2):
        assert get_span(within) is trace.get_current_span(within)
    assert get_span(Context()) is INVALID_SPAN


def test_key_of_the_span_is_that_of_the_api() -> None:
    assert current_context._SPAN_KEY in trace.set_span_in_context(SDK_SPAN, Context())


def test_missing_key_leaves_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    within = baggage.set_baggage("a", "b", trace.set_span_in_context(SDK_SPAN, Context()))
    monkeypatch.setattr(current_context, "_SPAN_KEY", "")
    monkeypatch.setattr(current_context, "_BAGGAGE_KEY", "")
    assert get_span(within) is SDK_SPAN
    assert get_baggage(within) == {"a": "b"}


def test_baggage_of_a_context_is_that_of_the_api() -> None:
    within = baggage.set_baggage("a", "b", Context())
    for each in (within, Context(), baggage.clear(within), trace.set_span_in_context(SDK_SPAN, within)):
        assert get_baggage(each) == baggage.get_all(each)


class ShownSpan(NonRecordingSpan):
    """A span of another class, which shows its attributes."""

    def __init__(self, attributes: object) -> None:
        super().__init__(trace.INVALID_SPAN_CONTEXT)
        self.attributes = attributes


class UncopiedMapping(Mapping[str, object]):
    """A mapping without `copy`."""

    def __init__(self, items: Mapping[str, object]) -> None:
        self._items = items

    def __getitem__(self, key: str) -> object:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


def test_attributes_of_a_span_of_any_class_are_read() -> None:
    given: dict[str, str | int] = {"text": "a", "number": 1}
    recording = TracerProvider(shutdown_on_exit=False).get_tracer("program").start_span("span", attributes=given)
    mapping = UncopiedMapping(given)
    for span in (recording, ShownSpan(given), ShownSpan(mapping), ShownSpan(MappingProxyType(mapping))):
        assert dict(read_attributes(span)) == given
    for span in (INVALID_SPAN, ShownSpan(None), ShownSpan({})):
        assert not read_attributes(span)
