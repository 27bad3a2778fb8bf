"""Renders the catalogue as a page: `python -m loco_otel._telemetry.page docs/telemetry.md [--check]`."""

import sys
from collections.abc import Iterable, Iterator, Sequence

from loco_otel._telemetry import generated
from loco_otel._telemetry.attributes import ATTRIBUTES
from loco_otel._telemetry.catalogue import (
    METRICS,
    SPANS,
    InstrumentKind,
    MetricDefinition,
    SpanDefinition,
    SpanEventDefinition,
)
from loco_otel._telemetry.instruments import POINT_LIMIT, VALUE_LIMIT

_COMMAND = "python -m loco_otel._telemetry.page"

_INTRODUCTION = f"""\
<!-- Generated from the catalogue by `{_COMMAND}`. Edit the catalogue instead. -->

# Telemetry

Everything that loco-otel emits, under the instrumentation scope `loco_otel`. It is exported by your program's
OpenTelemetry SDK; set up spans, metrics, both or neither. With neither, nothing is computed.

Names are those of OpenTelemetry; the Prometheus columns show their translation, the same through the
Prometheus exporter and through OTLP. No prompt and no answer is ever recorded. `gen_ai.usage.*` and
`gen_ai.operation.name` are only on the inference span, which is created only if no other instrumentation does: not
beside OpenTelemetry's own GenAI instrumentations, OpenLLMetry, OpenInference or Anthropic's tracing. So no
call is counted twice. In `suppress_instrumentation()` a call emits no telemetry, but is scheduled.

The same for machines is [semconv/loco.yaml](../semconv/loco.yaml), a registry in the form of OpenTelemetry's
semantic conventions, which Weaver reads; the tests hold what is emitted against it.

Three questions to start with:

```promql
# How long do agents wait? (95th percentile, seconds)
histogram_quantile(0.95, sum by (loco_agent_id, le) (rate(loco_wait_duration_seconds_bucket[5m])))

# Which agents are waiting now, and for how long?
max by (loco_agent_id) (loco_queue_wait_seconds)

# What does the provider reject?
sum by (gen_ai_provider_name, error_type) (increase(loco_throttles_total{{loco_throttle_kind!="timeout"}}[1h]))
```
"""

_SPANS_INTRODUCTION = """\
## Spans

Waiting for a slot is a span of its own, made when the wait is over, so queue time is never taken for the
provider's time. The links on it lead to the calls that were in the way. Attributes marked * are left out
if they have no value. If your spans are exported in batches ours are created in batches, up to a second
later with their actual times; `force_flush` and `shutdown` of your provider flush them first.
"""

_METRICS_INTRODUCTION = f"""\
## Metrics

[questions.md](questions.md) has the queries that answer an operator's questions.

Gauges are read when metrics are collected, all from the same moment. Counters start at 0 with the first call of
their kind, so `increase()` sees the first event: all outcomes, tokens and spending of an agent, all throttles of
a provider. The seconds of `loco.slot.time`, `loco.capacity.time`, `loco.pause.time` and `loco.wait.time` include what
is under way when they are read; histograms count a wait or a hold when it ends.

Every point of a metric has all labels but those marked *: if a request has none, the value is `unknown`. Of any
label marked † the first {VALUE_LIMIT} values are distinguished, unless set otherwise; the rest become `other`. An
instrument has at most {POINT_LIMIT} points: above four fifths of them new ones have the agent `other`, and above
95 % `other` in each label marked †.
"""

_LABELS_INTRODUCTION = """\
## Labels

The attributes of metrics, and the labels that Prometheus makes of them. They have the same names on spans.
"""


def render_page() -> str:
    """Return the page, in Markdown."""
    return "\n".join([_INTRODUCTION, *_render_spans(), *_render_metrics(), *_render_labels()])


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or check that it is up to date; return the exit code."""
    return generated.run_generator(_COMMAND, render_page, arguments)


def _render_spans() -> Iterator[str]:
    yield _SPANS_INTRODUCTION
    for span in SPANS:
        yield f"### `{span.name}`\n"
        yield f"Kind {span.kind}. {span.description}\n"
        yield _format_table(("attribute", "type", "meaning"), _build_attribute_rows(span))
        for event in span.events:
            yield f"#### Event `{event.name}`\n"
            yield f"{event.description}\n"
            yield _format_table(("attribute", "type", "meaning"), _build_attribute_rows(event))


def _render_metrics() -> Iterator[str]:
    yield _METRICS_INTRODUCTION
    yield _format_table(
        ("Prometheus", "OpenTelemetry", "kind", "unit", "labels", "meaning"),
        (
            (
                f"`{row.prometheus_name}`",
                f"`{row.name}`",
                row.kind,
                f"`{row.unit}`",
                _format_labels(row),
                row.description,
            )
            for row in METRICS
        ),
    )
    yield "Histograms have the series `_bucket`, `_sum` and `_count`, and these upper bounds:\n"
    yield _format_table(
        ("histogram", "bounds"),
        ((f"`{row.name}`", _format_bounds(row)) for row in METRICS if row.kind is InstrumentKind.HISTOGRAM),
    )


def _format_labels(row: MetricDefinition) -> str:
    labels = [f"`{ATTRIBUTES[key].prometheus_label}`" for key in row.attributes]
    return ", ".join([*labels, *(f"`{ATTRIBUTES[key].prometheus_label}` *" for key in row.optional)])


def _render_labels() -> Iterator[str]:
    yield _LABELS_INTRODUCTION
    used = dict.fromkeys(key for row in METRICS for key in (*row.attributes, *row.optional))
    yield _format_table(
        ("label", "attribute", "values", "meaning"),
        (
            (
                f"`{row.prometheus_label}`" + (" †" if row.is_limited else ""),
                f"`{row.key}`",
                _join_code(row.values) or "open",
                row.meaning,
            )
            for row in (ATTRIBUTES[key] for key in used)
        ),
    )


def _build_attribute_rows(row: SpanDefinition | SpanEventDefinition) -> Iterator[tuple[str, str, str]]:
    for key in (*row.attributes, *row.optional):
        attribute = ATTRIBUTES[key]
        mark = " *" if key in row.optional else ""
        meaning = attribute.meaning
        if attribute.values:
            meaning += f" One of {_join_code(attribute.values)}."
        yield f"`{key}`{mark}", attribute.type, meaning


def _join_code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _format_bounds(row: MetricDefinition) -> str:
    return " ".join(f"{bound:g}" for bound in row.buckets)


def _format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
