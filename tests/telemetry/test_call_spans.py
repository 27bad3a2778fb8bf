"""The span around a call that has none."""

import threading

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import INVALID_SPAN, StatusCode
from telemetry_scenario import SUBJECT, FakeTicket, Rig, granted, rejected, released, spent, ticket, waiting

from loco_otel._telemetry import CallTrace
from loco_otel._telemetry.call_trace import CallSpan
from loco_otel.errors import AcquireTimeoutError
from loco_otel.events import Outcome


def called(rig: Rig, *, has_sdk_span: bool = True) -> tuple[FakeTicket, CallTrace]:
    """A patched call, whose inference span is by default somebody else's."""
    call = rig.telemetry.create_trace()
    call.begin_call("analyst", SUBJECT, has_sdk_span=has_sdk_span)
    return ticket(context=call, settles=True), call


def span_of(rig: Rig) -> CallSpan:
    _, call = called(rig)
    assert call.call_span is not None
    return call.call_span


def test_call_span_is_a_root_around_the_call() -> None:
    rig = Rig()
    who, call = called(rig, has_sdk_span=False)
    rig.tell(granted(who))
    call.begin_inference("analyst", 995.0)
    rig.tell(released(who))

    acquire, inference, span = rig.spans()
    assert span.name == "call analyst"
    assert span.parent is None
    assert acquire.parent == inference.parent == span.context
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "loco.agent.id": "analyst",
        "gen_ai.provider.name": SUBJECT.provider,
        "gen_ai.request.model": SUBJECT.model,
    }


def test_call_span_is_not_attached() -> None:
    called(Rig())
    assert trace.get_current_span() is INVALID_SPAN


def test_call_span_is_absent_inside_a_program_span() -> None:
    rig = Rig()
    with trace.use_span(rig.parent()):
        _, call = called(rig)
    assert call.call_span is None


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (TimeoutError(), "TimeoutError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (AcquireTimeoutError("late", agent="a", resource="r"), "loco_otel.errors.AcquireTimeoutError"),
    ],
)
def test_failure_names_its_class(error: BaseException, name: str) -> None:
    rig = Rig()
    who, call = called(rig)
    call.record_error(error)
    rig.tell(granted(who), released(who))
    span = rig.spans()[-1]
    assert span.name == "call analyst"
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == name
    assert span.events == ()


def test_call_span_ends_once(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    call = span_of(rig)
    threads = [threading.Thread(target=call.end_span) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    call.end_span("ValueError")
    assert rig.span().status.status_code is StatusCode.UNSET
    # The SDK logs a span that is ended twice.
    assert caplog.records == []


def test_call_span_ends_with_the_last_event_of_its_request() -> None:
    rig = Rig()
    who, _ = called(rig)
    rig.tell(granted(who), spent(who))
    assert [span.name for span in rig.spans()] == ["acquire llm_api"]
    rig.tell(released(who))
    acquire, span = rig.spans()
    assert acquire.parent == span.context
    assert span.status.status_code is StatusCode.UNSET


def test_refused_call_is_an_error() -> None:
    rig = Rig()
    who, _ = called(rig)
    rig.tell(waiting(who), rejected(who, Outcome.BACKPRESSURE))
    for span in rig.spans():
        assert span.status.status_code is StatusCode.ERROR
        assert (span.attributes or {})["error.type"] == "backpressure"
    assert [span.name for span in rig.spans()] == ["acquire llm_api", "call analyst"]


def test_unsampled_call_span_keeps_the_trace_together() -> None:
    rig = Rig(sampler=ALWAYS_OFF)
    call = span_of(rig)
    span = trace.get_current_span(call.context)
    assert span.get_span_context().is_valid
    assert not span.is_recording()
    call.end_span("ValueError")
    assert rig.spans() == ()


@pytest.mark.parametrize("has_sdk_span", [False, True])
def test_request_attributes_are_dropped_once_sent(*, has_sdk_span: bool) -> None:
    # The scheduler remembers a thousand requests, each with its trace: not a thousand prompts.
    _, call = called(Rig(), has_sdk_span=has_sdk_span)
    call.begin_inference("analyst", 995.0)
    assert call.inference_request is not None
    assert call.inference_request == SUBJECT._replace(body={})
    assert SUBJECT.body


@pytest.mark.parametrize("faulty", ["acquire", "chat"])
def test_processor_that_raises_loses_no_other_span(faulty: str, caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            if span.name.startswith(faulty):
                raise ValueError(span.name)

    rig = Rig()
    rig.tracer_provider.add_span_processor(Faulty())
    for _ in range(2):
        who, call = called(rig, has_sdk_span=False)
        rig.tell(granted(who))
        call.begin_inference("analyst", 995.0)
        rig.tell(released(who))
    who, _ = called(rig, has_sdk_span=False)
    rig.tell(rejected(who))

    names = [span.name.split()[0] for span in rig.spans()]
    assert names == [*("acquire", "chat", "call") * 2, "acquire", "call"]
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "a span could not be made, or a span processor raised"
    ]
