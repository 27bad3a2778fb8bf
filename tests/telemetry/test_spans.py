"""The acquire span: its times, its parent, its links and its attributes."""

import gc
import weakref
from typing import Any, cast

import pytest
from forked_child import run_in_child
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanContext, SpanKind, StatusCode
from telemetry_scenario import (
    EPOCH,
    SECOND,
    SUBJECT,
    FakeTicket,
    Rig,
    granted,
    rejected,
    released,
    spent,
    throttled,
    ticket,
    under,
    wait_for_everything,
    waiting,
)

from loco_otel._telemetry import CallTrace
from loco_otel.events import Event, GrantReason, Limited, Outcome, SlotTaken, Submitted, Suspended, ThrottleKind, Usage


def wall(at: float) -> int:
    return EPOCH + round(at * SECOND)


def acquire_of(who: FakeTicket) -> SpanContext | None:
    call = who.request.context
    assert isinstance(call, CallTrace)
    return call.acquire_span_context


def test_grant_makes_the_span_with_all_its_facts() -> None:
    rig = Rig()
    who = ticket(weight=2500, task_type="summary", provider="openai", model="gpt-4o", context=under(rig.parent()))
    rig.tell(Submitted(990.0, who), waiting(who), granted(who))

    span = rig.span()
    assert span.name == "acquire llm_api"
    assert span.kind is SpanKind.INTERNAL
    assert span.status.status_code is StatusCode.UNSET
    assert (span.start_time, span.end_time) == (wall(990.0), wall(995.0))
    assert dict(span.attributes or {}) == {
        "loco.agent.id": "analyst",
        "loco.resource.name": "llm_api",
        "loco.task.weight": 2.5,
        "loco.task.type": "summary",
        "loco.policy": "load",
        "loco.outcome": "granted",
        "loco.wait.duration": 5.0,
        "loco.wait.ticks": 12,
        "loco.priority": "normal",
        "loco.wait.reason": "slots",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "loco.wait.queue_weight": 4.5,
        "loco.queue.position": 2,
        "loco.resource.capacity": 3,
        "loco.requests.waiting": 7,
        "loco.load.score": 0.75,
        "loco.scheduler.alpha": 0.25,
        "loco.queue.weight": 4.5,
        "loco.queue.age": 40,
        "loco.scheduler.tick": 321,
        "loco.grant.reason": "score",
        "loco.wait.time.unknown": 5.0,
    }
    assert span.events == ()


def test_free_slot_needs_no_wait() -> None:
    rig = Rig()
    who = ticket(context=under(rig.parent()))
    rig.tell(Submitted(995.0, who), granted(who, waited=0.0, ticks=0, reason=GrantReason.FREE))

    span = rig.span()
    assert span.start_time == span.end_time
    assert not {name for name in span.attributes or () if name.startswith(("loco.wait.time", "loco.blame"))}


def test_clocks_are_compared_when_an_event_is_delivered() -> None:
    rig = Rig()
    rig.tell(granted(ticket()))
    # The wall clock was half a minute late, and is set right.
    rig.clock.epoch += 30 * SECOND
    rig.clock.now += 100.0
    rig.tell(granted(ticket()))
    first, second = rig.spans()
    assert (first.start_time, first.end_time) == (wall(990.0), wall(995.0))
    assert (second.start_time, second.end_time) == (wall(1020.0), wall(1025.0))


def test_parent_is_the_span_of_the_caller() -> None:
    rig = Rig()
    parent, stranger = rig.parent(), rig.parent()
    with trace.use_span(stranger):
        rig.tell(granted(ticket(context=under(parent))))
    assert rig.span().parent == parent.get_span_context()


@pytest.mark.parametrize("carried", [None, "somebody else's", CallTrace(Context())])
def test_span_without_a_callers_span_is_a_root(carried: object) -> None:
    rig = Rig()
    with trace.use_span(rig.parent()):
        rig.tell(granted(ticket(context=carried)))
    assert rig.span().parent is None


def test_capture_takes_the_current_span() -> None:
    rig = Rig()
    parent = rig.parent()
    with trace.use_span(parent):
        call = rig.telemetry.create_trace()
    rig.tell(granted(ticket(context=call)))
    assert rig.span().parent == parent.get_span_context()


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.GRANTED])
def test_rejection_is_an_error(outcome: Outcome) -> None:
    rig = Rig()
    who = ticket(context=under(rig.parent()), settles=True)
    rig.tell(waiting(who), rejected(who, outcome))

    span = rig.span()
    assert (span.start_time, span.end_time) == (wall(990.0), wall(995.0))
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == span.attributes["loco.outcome"] == outcome.value
    assert span.attributes["loco.queue.position"] == 2
    assert "loco.grant.reason" not in span.attributes


def test_set_of_resources_has_one_name() -> None:
    rig = Rig()
    rig.tell(granted(ticket(resources=("search", "llm_api"))), granted(ticket(resources=("llm_api", "search"))))
    assert {span.name for span in rig.spans()} == {"acquire llm_api+search"}


def test_links_point_to_the_longest_holders_of_the_wait() -> None:
    rig = Rig()
    holder, late = ticket("first", context=under(rig.parent())), ticket("late", context=under(rig.parent()))
    foreign = ticket(context=None)
    who = ticket(context=under(rig.parent()))
    rig.tell(granted(holder, 980.0), granted(foreign, 980.0), waiting(who, 990.0))
    held = acquire_of(holder)
    rig.tell(Suspended(991.0, holder, 11.0), granted(late, 991.0), granted(holder, 994.5, repeated=True), granted(who))

    returned = acquire_of(holder)
    assert returned != held
    links = [(link.context, dict(link.attributes or {})) for link in rig.spans()[-1].links]
    assert links == [
        (acquire_of(late), {"loco.agent.id": "late", "loco.blame.duration": 4.0}),
        (held, {"loco.agent.id": "first", "loco.blame.duration": 1.0}),
        (returned, {"loco.agent.id": "first", "loco.blame.duration": 0.5}),
    ]


def test_links_are_the_sixteen_longest_holders() -> None:
    rig = Rig()
    holders = [ticket(context=under(rig.parent())) for _ in range(300)]
    who = ticket(context=under(rig.parent()))
    rig.tell(waiting(who, 0.0))
    for number, holder in enumerate(holders):
        # One after the other, and each fifteenth much longer.
        held = 2.0 if number % 15 == 0 else 0.5
        rig.tell(granted(holder, number * 3.0, waited=0.0), released(holder, number * 3.0 + held))
    rig.tell(granted(who, 995.0, waited=995.0))
    links = rig.spans()[-1].links
    longest = [acquire_of(holder) for holder in holders[::15]]
    assert len(links) == 16
    assert all(link.context in longest for link in links)


def test_links_omit_what_ended_before_the_wait() -> None:
    rig = Rig()
    before, who = ticket(context=under(rig.parent())), ticket(context=under(rig.parent()))
    rig.tell(granted(before, 980.0), released(before, 989.0), waiting(who, 990.0), granted(who))
    assert rig.spans()[-1].links == ()


def test_links_of_a_forked_child_omit_its_parents_calls() -> None:
    rig = Rig()
    holder, who = ticket(context=under(rig.parent())), ticket(context=under(rig.parent()))
    rig.tell(granted(holder, 980.0))

    def check_child() -> None:
        rig.tell(waiting(who, 990.0), granted(who))
        assert rig.spans()[-1].links == ()

    assert run_in_child(check_child)
    rig.tell(waiting(who, 990.0), granted(who))
    assert len(rig.spans()[-1].links) == 1


def test_links_omit_unrecorded_spans() -> None:
    rig, unsampled = Rig(), Rig(sampler=ALWAYS_OFF)
    holder = ticket(context=under(unsampled.parent()))
    unsampled.tell(granted(holder, 980.0))
    who = ticket(context=under(rig.parent()))
    rig.telemetry.listeners[1](SlotTaken(980.0, holder))
    rig.tell(waiting(who), granted(who))
    assert rig.span().links == ()


def test_settling_span_stays_open_and_ends_at_the_grant() -> None:
    rig = Rig()
    who = ticket(context=under(rig.parent()), settles=True, model="gpt-4o")
    rig.tell(granted(who))
    assert rig.spans() == ()

    rig.tell(spent(who), released(who))
    span = rig.span()
    assert span.end_time == wall(995.0)
    assert {name: value for name, value in (span.attributes or {}).items() if name.startswith("loco.spend")} == {
        "loco.spend.weight": 1.5,
        "loco.spend.estimated": False,
        "loco.spend.usd": 0.0025,
        "loco.spend.input_tokens": 100,
        "loco.spend.output_tokens": 20,
    }


@pytest.mark.parametrize(("usage", "tokens"), [(Usage(100, 7, estimated=True), True), (None, False)])
def test_unstated_spending_is_estimated(usage: Usage | None, tokens: bool) -> None:
    rig = Rig()
    who = ticket(context=under(rig.parent()), settles=True)
    rig.tell(granted(who), spent(who, usage=usage))
    attributes = rig.span().attributes or {}
    assert attributes["loco.spend.estimated"] is True
    assert ("loco.spend.output_tokens" in attributes) is tokens


def test_failed_call_ends_the_span_without_spending() -> None:
    rig = Rig()
    who = ticket(context=under(rig.parent()), settles=True)
    rig.tell(granted(who), released(who))
    span = rig.span()
    assert span.end_time == wall(995.0)
    assert "loco.spend.weight" not in (span.attributes or {})


def test_second_wait_of_a_retry_has_its_own_span() -> None:
    rig = Rig()
    who = ticket(context=under(rig.parent()), settles=True)
    rig.tell(waiting(who, 985.0), granted(who, 990.0), throttled(who, 991.0), Suspended(991.5, who, 1.5))
    rig.tell(granted(who, 997.0, waited=1.0, repeated=True), spent(who), released(who))

    first, second = rig.spans()
    assert [event.name for event in first.events] == ["loco.throttle"]
    assert "loco.spend.weight" not in (first.attributes or {})
    assert "loco.spend.weight" in (second.attributes or {})
    assert "loco.queue.position" not in (second.attributes or {})
    assert (second.start_time, second.end_time) == (wall(996.0), wall(997.0))
    assert first.parent == second.parent


@pytest.mark.parametrize("retry_after", [None, 1.5])
def test_throttle_is_an_event_of_the_open_span(retry_after: float | None) -> None:
    rig = Rig()
    who = ticket(context=under(rig.parent()), settles=True)
    refusal = throttled(who, status=529, kind=ThrottleKind.SPEND, retry_after=retry_after)
    rig.tell(granted(who), refusal, released(who))
    event = rig.span().events[-1]
    assert (event.name, event.timestamp) == ("loco.throttle", wall(996.0))
    assert dict(event.attributes or {}) == {
        "http.response.status_code": 529,
        "loco.throttle.kind": "spend",
        **({} if retry_after is None else {"loco.throttle.retry_after": retry_after}),
    }


@pytest.mark.parametrize("carried", [None, object()])
def test_nothing_is_kept_open_without_a_trace(carried: object) -> None:
    rig = Rig()
    who = ticket(context=carried, settles=True)
    rig.tell(waiting(who), granted(who), throttled(who), spent(who), released(who))
    span = rig.span()
    assert span.events == ()
    assert "loco.spend.weight" not in (span.attributes or {})


def test_repeated_event_leaves_no_span_open() -> None:
    # Delivery is at least once: a KeyboardInterrupt in its midst repeats the event.
    rig = Rig()
    who = ticket(context=under(rig.parent()), settles=True)
    rig.tell(granted(who), granted(who), spent(who), spent(who), released(who), released(who))
    assert len(rig.spans()) == 2


def test_unsampled_span_reads_the_request_alone() -> None:
    rig = Rig(sampler=ALWAYS_OFF)
    # All arithmetic with this weight fails.
    weight = cast("int", "not a number")
    who = ticket(context=under(rig.parent()), settles=True)
    holding = waiting(who)._replace(queue_weight=weight)
    winning = granted(who)._replace(queue_weight=weight)
    spending = spent(who)
    spending = spending._replace(spending=spending.spending._replace(weight=weight))
    events: list[Event] = [holding, winning, throttled(who), spending, rejected(who), released(who)]
    spans = rig.telemetry.listeners[1]
    for event in events:
        spans(event)
    assert rig.spans() == ()


class _KeepsBatch(Sampler):
    """Samples by attributes of the acquire span, and drops all others of ours."""

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        attributes = kwargs.get("attributes") or (args[4] if len(args) > 4 else None) or {}
        kept = attributes.get("loco.agent.id") == "batch" and attributes.get("loco.wait.duration", 0) > 1
        return SamplingResult(Decision.RECORD_AND_SAMPLE if kept else Decision.DROP, attributes)

    def get_description(self) -> str:
        return "by agent"


def test_sampler_reads_the_attributes_of_the_wait() -> None:
    rig = Rig(sampler=_KeepsBatch())
    rig.tell(granted(ticket("batch")), granted(ticket("batch"), waited=0.5), granted(ticket("chat")))
    assert [(span.attributes or {})["loco.wait.duration"] for span in rig.spans()] == [5.0]


def test_caller_is_on_every_span() -> None:
    rig = Rig()
    call = rig.telemetry.create_trace()
    call.set_caller("acme", "research", "digest", "conversation-1")
    call.begin_call("analyst", SUBJECT, has_sdk_span=False)
    who = ticket(context=call, settles=True)
    rig.tell(granted(who))
    call.begin_inference("analyst", 995.0)
    rig.tell(spent(who), released(who))
    expected = {
        "loco.agent.id": "analyst",
        "loco.tenant.id": "acme",
        "loco.team.id": "research",
        "gen_ai.workflow.name": "digest",
        "gen_ai.conversation.id": "conversation-1",
    }
    assert len(rig.spans()) == 3
    for span in rig.spans():
        assert expected.items() <= dict(span.attributes or {}).items()


def test_tokens_are_once_on_a_span() -> None:
    rig = Rig()
    call = rig.telemetry.create_trace()
    call.begin_call("analyst", SUBJECT, has_sdk_span=False)
    who = ticket(context=call, settles=True)
    rig.tell(granted(who))
    call.begin_inference("analyst", 995.0)
    rig.tell(spent(who), released(who))
    attributes = next(span.attributes for span in rig.spans() if span.name.startswith("chat")) or {}
    assert attributes["gen_ai.usage.input_tokens"] == 100
    assert attributes["loco.spend.usd"] == 0.0025
    assert not {name for name in attributes if name.startswith("loco.spend") and name.endswith("tokens")}


def test_wait_is_split_by_cause_on_its_span() -> None:
    rig = Rig()
    wait_for_everything(rig)
    attributes = next(span.attributes for span in rig.spans() if (span.attributes or {})["loco.wait.duration"] == 9.0)
    parts = {
        name.removeprefix("loco.wait.time."): value
        for name, value in (attributes or {}).items()
        if name.startswith("loco.wait.time.") and isinstance(value, float)
    }
    assert parts == pytest.approx(
        {
            "slot": 2.0,
            "self": 1.0,
            "ramp": 1.0,
            "reserved": 1.0,
            "backoff": 1.0,
            "requests": 1.0,
            "tokens": 1.0,
            "budget": 1.0,
        }
    )
    assert sum(parts.values()) == pytest.approx(9.0, abs=1e-9)


def test_five_longest_holders_are_named_then_others() -> None:
    rig = Rig()
    holders = [ticket(f"agent-{number}", context=None) for number in range(8)]
    who = ticket("who", context=under(rig.parent()))
    rig.tell(Limited(980.0, "llm_api", 8, 8), *(granted(holder, 980.0, waited=0.0) for holder in holders))
    rig.tell(waiting(who, 990.0))
    for number, holder in enumerate(holders):
        stranger = ticket("stranger", context=None)
        rig.tell(released(holder, 991.0 + number * 0.5), granted(stranger, 991.0 + number * 0.5, waited=0.0))
    rig.tell(granted(who))
    attributes = rig.spans()[-1].attributes or {}
    agents, seconds = attributes["loco.blame.agents"], attributes["loco.blame.seconds"]
    assert agents == ("stranger", "agent-7", "agent-6", "agent-5", "agent-4", "other")
    assert isinstance(seconds, tuple)
    assert sum(cast("tuple[float, ...]", seconds)) == pytest.approx(5.0, abs=1e-9)


def test_suppressed_span_is_not_made() -> None:
    rig = Rig()
    with suppress_instrumentation():
        call = CallTrace(context.get_current())
        call.begin_call("analyst", SUBJECT, has_sdk_span=False)
        assert call.begin_inference("analyst", 995.0) is call.caller_context
    who = ticket(context=call, settles=True)
    rig.tell(waiting(who), granted(who), spent(who), rejected(who), released(who))
    assert rig.spans() == ()


def test_nothing_grows() -> None:
    rig = Rig()
    remembered: list[weakref.ref[FakeTicket]] = []

    def calls(number: int) -> None:
        for index in range(number):
            who = ticket(f"agent-{index % 10}", context=under(rig.parent()), settles=index % 2 == 0)
            if index % 100 == 0:
                remembered.append(weakref.ref(who))
            rig.tell(Submitted(990.0, who), waiting(who), granted(who), throttled(who))
            if index % 3:
                rig.tell(spent(who))
            rig.tell(released(who))
            rig.exporter.clear()
        rig.metrics()  # what is kept back for the next collection is bounded, and not what is counted here
        gc.collect()

    calls(100)
    before = len(gc.get_objects())
    calls(10_000)
    assert len(gc.get_objects()) - before < 200
    assert not [reference for reference in remembered if reference() is not None]
