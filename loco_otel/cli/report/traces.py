"""Turns the spans of a run into the values of its metrics over time."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry import catalogue
from loco_otel._telemetry.catalogue import MetricDefinition
from loco_otel.cli.metrics_page import to_label
from loco_otel.cli.report.otlp_file import RecordedSpan
from loco_otel.cli.report.recording import Recording
from loco_otel.events import Outcome

_TIMES = 241
_ACQUIRE = "acquire "
_CALL = "call "
_CAUSES = {
    key.WAIT_SELF: key.SELF, key.WAIT_BACKOFF: "backoff", key.WAIT_REQUESTS: key.REQUESTS, key.WAIT_TOKENS: key.TOKENS,
    key.WAIT_RAMP: key.RAMP, key.WAIT_RESERVED: key.RESERVED, key.WAIT_BUDGET: key.BUDGET,
    key.WAIT_UNKNOWN: key.UNKNOWN,
}  # fmt: skip
"""Attributes with the seconds of a cause, `slot` apart, whose seconds are those of the agents that held the slots."""


class _Change(NamedTuple):
    """A change of one series."""

    at: float
    name: str
    labels: tuple[tuple[str, str], ...]
    difference: float


class HeldTime(NamedTuple):
    """A time during which a call held a slot."""

    agent: str
    resource: str
    start: float
    end: float


def record_spans(spans: Sequence[RecordedSpan], origin: str) -> Recording:
    """Return the run that spans describe. Each counts at its end, waiting and active calls from their beginning."""
    recording = Recording(origin)
    changes = [change for span in spans if span.is_own for change in _list_changes(span)]
    changes += [change for hold in list_holds(spans) for change in _list_hold_changes(hold)]
    changes += _list_capacity_changes(spans)
    changes.sort()
    first, last = min(it.start for it in spans), max(it.end for it in spans)
    sums = defaultdict[tuple[str, tuple[tuple[str, str], ...]], float](float)
    for change in changes:
        sums[change.name, change.labels] = 0.0
    position = 0
    for number in range(_TIMES):
        at = first + (last - first) * number / (_TIMES - 1)
        # None before the first time, from which all counts are made; all at the last, whatever floats add up to.
        while number > 0 and position < len(changes) and (changes[position].at <= at or number == _TIMES - 1):
            change = changes[position]
            sums[change.name, change.labels] += change.difference
            position += 1
        recording.begin_time(at)
        for (name, labels), value in sums.items():
            recording.set_value("", name, dict(labels), value)
    return recording


def _list_changes(span: RecordedSpan) -> Iterator[_Change]:
    if span.name.startswith(_ACQUIRE):
        yield from _list_acquire_changes(span)
    yield from _list_spend_changes(span)
    for name, at, attributes in span.events:
        if name == catalogue.EVENT_THROTTLE.name:
            yield _make(
                at,
                catalogue.THROTTLES,
                1,
                {
                    key.PROVIDER: _get_text(span, key.PROVIDER),
                    key.ERROR_TYPE: str(attributes.get(key.STATUS_CODE, key.TIMEOUT)),
                    key.THROTTLE_KIND: str(attributes.get(key.THROTTLE_KIND, "")),
                },
            )


def list_holds(spans: Iterable[RecordedSpan]) -> list[HeldTime]:
    """Return the times during which calls held slots.

    A grant is the end of an acquire span. A slot is released by a refusal that the call repeats after a pause, and at
    the end of the inference span. One agent's grants and releases are paired in their order, which gives the number of
    slots that it holds at each time; grants without a release are left out.
    """
    grants, releases = defaultdict[str, list[tuple[float, str]]](list), defaultdict[str, list[float]](list)
    agents = {}
    for span in spans:
        if span.is_own and span.name.startswith(_ACQUIRE):
            agent = agents[span.parent] = _get_text(span, key.AGENT)
            if _get_text(span, key.OUTCOME) == Outcome.GRANTED:
                grants[agent].append((span.end, _get_text(span, key.RESOURCE)))
            # Of a call with another's inference span, which has no such events.
            releases[agent] += _list_refusals(span)
    for span in spans:
        if span.is_own and span.name.startswith((_ACQUIRE, _CALL)):
            continue
        agent = _get_text(span, key.AGENT) if span.is_own else agents.get(span.parent, "")
        repeats = int(span.attributes.get(key.RESEND_COUNT, 0)) if span.is_own else 0
        releases[agent] += [span.end, *_list_refusals(span)[:repeats]]
    return [hold for agent, own in grants.items() for hold in _pair_holds(agent, sorted(own), sorted(releases[agent]))]


def _list_refusals(span: RecordedSpan) -> list[float]:
    return [at for name, at, _ in span.events if name == catalogue.EVENT_THROTTLE.name]


def _pair_holds(agent: str, grants: Iterable[tuple[float, str]], releases: Sequence[float]) -> Iterator[HeldTime]:
    position = 0
    for start, resource in grants:
        while position < len(releases) and releases[position] < start:
            position += 1
        if position < len(releases):
            yield HeldTime(agent, resource, start, releases[position])
            position += 1


def _list_hold_changes(hold: HeldTime) -> Iterator[_Change]:
    where = {"agent": hold.agent, "resource": hold.resource}
    yield _change(hold.start, catalogue.REQUESTS_ACTIVE, 1, **where)
    yield _change(hold.end, catalogue.REQUESTS_ACTIVE, -1, **where)
    yield _change(hold.end, catalogue.SLOT_TIME, hold.end - hold.start, **where)


def _list_acquire_changes(span: RecordedSpan) -> Iterator[_Change]:
    agent, resource = _get_text(span, key.AGENT), _get_text(span, key.RESOURCE)
    outcome = _get_text(span, key.OUTCOME)
    wait = float(span.attributes.get(key.WAIT_DURATION, span.end - span.start))
    yield _change(span.start, catalogue.REQUESTS_WAITING, 1, agent=agent, resource=resource)
    yield _change(span.end, catalogue.REQUESTS_WAITING, -1, agent=agent, resource=resource)
    mine = {key.AGENT: agent, key.RESOURCE: resource}
    yield _make(span.end, catalogue.REQUESTS, 1, {**mine, key.OUTCOME: outcome})
    bounds = [*map(str, catalogue.WAIT_DURATION.buckets), "+Inf"]
    for bound in bounds[bisect_left(catalogue.WAIT_DURATION.buckets, wait) :]:
        labels = {**mine, key.OUTCOME: outcome, "le": bound}
        yield _make(span.end, catalogue.WAIT_DURATION, 1, labels, part="_bucket")
    for attribute, cause in _CAUSES.items():
        if seconds := span.attributes.get(attribute):
            yield _make(span.end, catalogue.WAIT_TIME, seconds, {**mine, key.WAIT_CAUSE: cause})
    if key.BLAME_AGENTS not in span.attributes and (seconds := span.attributes.get(key.WAIT_SLOT)):
        yield _make(span.end, catalogue.WAIT_TIME, seconds, {**mine, key.WAIT_CAUSE: key.SLOT})
    holders = zip(span.attributes.get(key.BLAME_AGENTS, ()), span.attributes.get(key.BLAME_SECONDS, ()), strict=False)
    for holder, seconds in holders:
        blamed = {**mine, key.WAIT_CAUSE: key.SLOT, key.BLAME_AGENT: holder}
        yield _make(span.end, catalogue.WAIT_TIME, seconds, blamed)


def _list_spend_changes(span: RecordedSpan) -> Iterator[_Change]:
    if key.SPENT_WEIGHT not in span.attributes:
        return
    call = {name: _get_text(span, name) for name in (key.AGENT, key.TENANT, key.PROVIDER, key.MODEL)}
    yield _make(span.end, catalogue.SPENT, float(span.attributes.get(key.SPENT_USD, 0.0)), call)
    counts = {
        key.INPUT: span.attributes.get(key.INPUT_TOKENS, span.attributes.get(key.SPENT_INPUT, 0)),
        key.OUTPUT: span.attributes.get(key.OUTPUT_TOKENS, span.attributes.get(key.SPENT_OUTPUT, 0)),
    }
    for kind, count in counts.items():
        yield _make(span.end, catalogue.TOKENS, float(count), {**call, key.TOKEN_TYPE: kind})


def _list_capacity_changes(spans: Iterable[RecordedSpan]) -> Iterator[_Change]:
    """Yield changes of the capacity that waiting calls have met, from the beginning on."""
    met = sorted(
        (span.start, _get_text(span, key.RESOURCE), int(span.attributes[key.CAPACITY]))
        for span in spans
        if key.CAPACITY in span.attributes
    )
    before: dict[str, int] = {}
    start = min(span.start for span in spans)
    for at, resource, capacity in met:
        if before.get(resource) != capacity:
            difference = capacity - before.get(resource, 0)
            yield _make(at if resource in before else start, catalogue.CAPACITY, difference, {key.RESOURCE: resource})
            before[resource] = capacity


def _change(at: float, metric: MetricDefinition, difference: float, *, agent: str, resource: str) -> _Change:
    return _make(at, metric, difference, {key.AGENT: agent, key.RESOURCE: resource})


def _make(
    at: float, metric: MetricDefinition, difference: float, attributes: dict[str, str], part: str = ""
) -> _Change:
    labels = tuple(sorted((to_label(name), value) for name, value in attributes.items()))
    return _Change(at, metric.prometheus_name + part, labels, difference)


def _get_text(span: RecordedSpan, name: str) -> str:
    return str(span.attributes.get(name, ""))
