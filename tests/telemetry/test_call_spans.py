"""The span around a call that has none."""

import threading

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import INVALID_SPAN, StatusCode
from telemetry_scenario import FakeTicket, Rig, granted, rejected, released, spent, ticket, waiting

from loco_otel._telemetry import CallSpan, CallTrace
from loco_otel._telemetry.calls import trace_of
from loco_otel.errors import AcquireTimeoutError
from loco_otel.events import Outcome


def called(rig: Rig) -> tuple[FakeTicket, CallSpan]:
    """A request within a call span."""
    call = rig.telemetry.start_call("analyst")
    assert call is not None
    trace = CallTrace(call.context)
    trace.call = call
    return ticket(context=trace, settles=True), call


def test_it_is_a_root_around_the_call() -> None:
    rig = Rig()
    call = rig.telemetry.start_call("analyst", provider="openai", model="gpt-4o")
    assert call is not None
    token = context.attach(call.context)
    inner = rig.parent()
    context.detach(token)
    inner.end()
    call.end()

    child, span = rig.spans()
    assert span.name == "call analyst"
    assert span.parent is None
    assert span.context == child.parent
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "loco.agent.id": "analyst",
        "gen_ai.agent.name": "analyst",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
    }


def test_it_is_not_attached() -> None:
    call = Rig().telemetry.start_call("analyst")
    assert call is not None
    assert trace.get_current_span() is INVALID_SPAN
    call.end()


def test_there_is_none_where_the_program_has_a_span() -> None:
    rig = Rig()
    with trace.use_span(rig.parent()):
        assert rig.telemetry.start_call("analyst") is None


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (TimeoutError(), "TimeoutError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (AcquireTimeoutError("late", agent="a", resource="r"), "loco_otel.errors.AcquireTimeoutError"),
    ],
)
def test_a_failure_names_its_class(error: BaseException, name: str) -> None:
    rig = Rig()
    call = rig.telemetry.start_call("analyst")
    assert call is not None
    call.end(error)
    span = rig.span()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == name
    assert span.events == ()


def test_it_ends_once_whoever_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    call = rig.telemetry.start_call("analyst")
    assert call is not None
    threads = [threading.Thread(target=call.end) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    call.end(ValueError())
    assert rig.span().status.status_code is StatusCode.UNSET
    # The SDK says so when a span is ended twice.
    assert caplog.records == []


def test_it_ends_with_the_last_event_of_its_request() -> None:
    rig = Rig()
    who, call = called(rig)
    rig.tell(granted(who), spent(who))
    assert [span.name for span in rig.spans()] == ["acquire llm_api"]
    rig.tell(released(who))
    call.end()
    acquire, span = rig.spans()
    assert acquire.parent == span.context
    assert span.status.status_code is StatusCode.UNSET


def test_it_tells_what_the_call_failed_with_and_keeps_no_traceback() -> None:
    rig = Rig()
    who, _ = called(rig)
    call = trace_of(who.request)
    assert call is not None
    call.error = ValueError()
    rig.tell(granted(who), released(who))
    assert (rig.spans()[-1].attributes or {})["error.type"] == "ValueError"
    assert call.error is None


def test_a_call_that_was_refused_is_an_error_too() -> None:
    rig = Rig()
    who, _ = called(rig)
    rig.tell(waiting(who), rejected(who, Outcome.BACKPRESSURE))
    for span in rig.spans():
        assert span.status.status_code is StatusCode.ERROR
        assert (span.attributes or {})["error.type"] == "backpressure"
    assert [span.name for span in rig.spans()] == ["acquire llm_api", "call analyst"]


def test_not_sampled_it_still_holds_the_trace_together() -> None:
    rig = Rig(sampler=ALWAYS_OFF)
    call = rig.telemetry.start_call("analyst")
    assert call is not None
    span = trace.get_current_span(call.context)
    assert span.get_span_context().is_valid
    assert not span.is_recording()
    call.end(ValueError())
    assert rig.spans() == ()
