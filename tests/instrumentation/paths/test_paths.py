"""OTLP over HTTP and gRPC, the Prometheus exporter, and Prometheus itself: the same names, the same values.

One program is exported on two paths at once, so that even durations must be equal. It is idle meanwhile: one
agent holds the only slot, another waits.
"""

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from exporters_page import commands
from receivers import OtelTap, Rotel, VictoriaMetrics, page
from sdk_collector import Collector, Told
from sdk_program import Running, environ, launched
from sdk_server import KEY, LlmServer, free_port
from series import Series, of_otlp, of_page, of_samples

from loco_otel._telemetry.catalogue import (
    CAPACITY_TIME,
    CHILDREN,
    ENGINE_DURATION,
    ENGINE_ERRORS,
    ENGINE_MODE,
    ENGINE_OVERBOOKED,
    ENGINE_PROCESSES,
    FAIRNESS,
    GATE_CLOSED,
    METRICS,
    PAUSE_TIME,
    QUEUE_WAIT,
    RATE_LIMIT,
    RATE_LIMIT_REMAINING,
    SLOT_TIME,
    WAIT_TIME,
    InstrumentKind,
    MetricDefinition,
)

PROGRAM = """
    import logging
    import threading
    from concurrent.futures import ThreadPoolExecutor
    from contextvars import Context

    import anthropic, openai
    from opentelemetry import metrics, trace

    logging.getLogger("loco_otel").setLevel("ERROR")  # of prices that are not known, and of thresholds
    question = [{"role": "user", "content": "how deep is the harbour?"}]
    tracer = trace.get_tracer("harbour")

    def written(line):
        print(line, flush=True)

    with openai.OpenAI(max_retries=1) as client, anthropic.Anthropic() as claude:

        def ask(**options):
            return client.chat.completions.create(model="gpt-4o", messages=question, **options)

        def write():
            with tracer.start_as_current_span("step", attributes={"gen_ai.agent.name": "writer"}):
                return claude.messages.create(model="claude-harbour", max_tokens=64, messages=question)

        for _ in range(3):  # the first is refused, and tries again
            ask()
        for _ in ask(stream=True):
            pass
        write()
        # Nobody sees this body read, so it never lies idle; and the waiter knows nothing of its holder.
        answers = client.chat.completions.with_streaming_response
        with ThreadPoolExecutor() as threads, answers.create(model="gpt-4o", messages=question, stream=True) as held:
            waits = Context().run(threads.submit, write)
            written("holding")
            input()
            metrics.get_meter_provider().force_flush()
            written("flushed")
            input()
            for _ in held.parse():
                pass
            waits.result()
"""

BUDGETS = """
    [[budgets]]
    scope = "all"
    limit = 1

    [[budgets]]
    key = "writer"
    limit = 0.001
    unit = "weight"
    period = "month"
    on_exceeded = "alert"
"""
"""Its model has no price, so its budget is in weight."""

_OF_ENGINE = {ENGINE_MODE, ENGINE_PROCESSES, ENGINE_OVERBOOKED, ENGINE_DURATION, ENGINE_ERRORS}
_ABSENT = {GATE_CLOSED, CHILDREN, FAIRNESS, RATE_LIMIT, RATE_LIMIT_REMAINING, *_OF_ENGINE}
EXPORTED = [row for row in METRICS if row not in _ABSENT]
"""All but those without a point here: a fixed capacity is never paused, the program does not fork, one agent waits,
the provider sends no limits, and no engine is shared. They have tests in `tests/telemetry`, `tests/questions` and
`tests/engine`."""

GROWING = {row.prometheus_name for row in (QUEUE_WAIT, SLOT_TIME, CAPACITY_TIME, PAUSE_TIME, WAIT_TIME)}
"""Seconds of what is under way."""

REFUSAL = {"type": "fail", "status": 429, "retry_after": 0.01, "times": 1}
CALLS = Counter(analyst=5, writer=2)

TYPES = {
    InstrumentKind.COUNTER: "sum",
    InstrumentKind.OBSERVABLE_COUNTER: "sum",
    InstrumentKind.HISTOGRAM: "histogram",
    InstrumentKind.OBSERVABLE_GAUGE: "gauge",
}


class Seen(NamedTuple):
    """What came out of one run of the program."""

    page: Series
    types: Mapping[str, str]
    """Of the families on that page."""
    metrics: list[Mapping[str, Any]]
    spans: list[Mapping[str, Any]]

    @property
    def otlp(self) -> Series:
        return of_otlp(self.metrics)


def holding(server: LlmServer, folder: Path, section: str, endpoint: str, shown: int, **changes: str) -> Running:
    """Start the program by a section of the page; OTLP to an endpoint, and shown on a port."""
    server.reset()
    server.script(REFUSAL)
    typed = commands(section)
    assert typed.command == commands("Prometheus").command == ["opentelemetry-instrument", "python", "app.py"]
    settings = {**commands("Prometheus").settings, **typed.settings}
    assert {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_PROMETHEUS_PORT", "OTEL_TRACES_EXPORTER"} < settings.keys()
    config = folder / "loco.toml"
    config.write_text(BUDGETS)
    return launched(
        PROGRAM,
        folder,
        {
            **environ(server),
            **settings,
            "LOCO_CAPACITY": "1",
            "LOCO_MAX_WAITERS": "100",
            "LOCO_AGENT_ID": "analyst",
            "LOCO_RUN_IDLE_TIMEOUT": "0.001",  # the first step has ended when the program holds
            "LOCO_CONFIG": str(config),
            "OTEL_METRICS_EXPORTER": "otlp,prometheus",
            "OTEL_METRIC_EXPORT_INTERVAL": "3600000",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(shown),
            **changes,
        },
    )


def waiting(series: Series) -> bool:
    return sum(value for (name, _), value in series.items() if name == "loco_requests_waiting") == 1


def steady(program: Running, shown: int) -> str:
    """Return the page once the program is idle."""
    program.until(lambda: program.lines() == ["holding"])
    program.until(lambda: waiting(of_page(page(shown))))
    return page(shown)


class Sink(NamedTuple):
    """Where a program sends OTLP, and where it can be read what arrived."""

    section: str
    port: int
    process: Running
    metrics: Callable[[], list[Mapping[str, Any]]]
    spans: Callable[[], list[Mapping[str, Any]]]


def run(server: LlmServer, folder: Path, sink: Sink) -> Seen:
    shown = free_port()
    with holding(server, folder, sink.section, f"http://127.0.0.1:{sink.port}", shown) as program:
        text = steady(program, shown)
        program.tell("flush")
        program.until(lambda: program.lines() == ["holding", "flushed"])
        sink.process.until(lambda: any(metric["name"] == "loco.active" for metric in sink.metrics()))
        metrics = sink.metrics()
        program.tell("end")
        program.ends_well()
        assert not program.errors()
    sink.process.until(lambda: names(sink.spans())["acquire llm_api"] == sum(CALLS.values()) + 1)
    assert KEY not in f"{text}{sink.metrics()}{sink.spans()}"
    types = dict(line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE"))
    return Seen(of_page(text), types, metrics, sink.spans())


def names(spans: list[Mapping[str, Any]]) -> Counter[str]:
    return Counter(span["name"] for span in spans)


@contextmanager
def oteltap(section: str, folder: Path) -> Iterator[Sink]:
    with OtelTap(folder) as tap:
        yield Sink(section, tap.port, tap, tap.metrics, tap.spans)


@contextmanager
def rotel(section: str, folder: Path) -> Iterator[Sink]:
    with Collector() as end, Rotel(folder, end.port) as rotel:

        def items(told: Callable[[], list[Told]]) -> list[Mapping[str, Any]]:
            return [told.item for told in told()]

        port = rotel.grpc_port if section.endswith("gRPC") else rotel.http_port
        yield Sink(section, port, rotel, lambda: items(end.metrics), lambda: items(end.spans))


HTTP = "OTLP over HTTP"
PATHS = {
    "http-oteltap": (HTTP, oteltap),
    "http-rotel": (HTTP, rotel),
    "grpc-rotel": ("OTLP over gRPC", rotel),
}
Run = Callable[[str], Seen]


@pytest.fixture(scope="module")
def on(llm_server: LlmServer, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the program once for each path, when it is first asked for."""
    seen: dict[str, Seen] = {}

    def run_on(path: str) -> Seen:
        if path not in seen:
            section, receiver = PATHS[path]
            folder = tmp_path_factory.mktemp("path")
            with receiver(section, folder) as sink:
                seen[path] = run(llm_server, folder, sink)
        return seen[path]

    return run_on


every_path = pytest.mark.parametrize("path", PATHS)


@every_path
def test_paths_deliver_the_same_series_and_values(path: str, on: Run) -> None:
    seen = on(path)
    assert_same(seen.page, seen.otlp)


def assert_same(scraped: Series, pushed: Series) -> None:
    """Compare all; only the seconds of what is under way increase, and OTLP is read last."""
    assert scraped.keys() == pushed.keys()
    assert sum(point[0] == QUEUE_WAIT.prometheus_name and value > 0 for point, value in scraped.items()) == 1
    waited = {point for point in scraped if point[0] in GROWING}
    assert {point: pushed[point] for point in scraped.keys() - waited} == {
        point: scraped[point] for point in scraped.keys() - waited
    }
    assert all(scraped[point] <= pushed[point] for point in waited)


@every_path
@pytest.mark.parametrize("row", EXPORTED, ids=lambda row: row.name)
def test_each_metric_arrives_under_its_catalogue_name(row: MetricDefinition, path: str, on: Run) -> None:
    seen = on(path)
    (metric,) = [metric for metric in seen.metrics if metric["name"] == row.name]
    assert TYPES[row.kind] in metric
    assert metric["unit"] == row.unit
    assert metric["description"] == row.description
    always, maybe = ({key.replace(".", "_") for key in keys} for keys in (row.attributes, row.optional))
    sample = f"{row.prometheus_name}_count" if row.kind is InstrumentKind.HISTOGRAM else row.prometheus_name
    for series in (seen.page, seen.otlp):
        keys = [{key for key, _ in labels} for name, labels in series if name == sample]
        assert keys
        assert all(always <= labels <= always | maybe for labels in keys)
    assert seen.types[row.prometheus_name] == row.kind.value.rpartition(" ")[2]


@every_path
def test_no_metric_is_missing_in_the_catalogue(path: str, on: Run) -> None:
    names = {metric["name"] for metric in on(path).metrics if metric["name"].startswith(("loco.", "gen_ai."))}
    assert names == {row.name for row in EXPORTED}


@every_path
def test_values_match_the_run(path: str, on: Run) -> None:
    seen = on(path)
    for series in (seen.page, seen.otlp):

        def total(name: str, **labels: str) -> float:
            of = [value for (n, on), value in series.items() if n == name and labels.items() <= dict(on).items()]  # noqa: B023
            assert of
            return sum(of)

        # Of seven calls one waits, one is under way, and one was sent twice.
        assert total("loco_acquire_requests_total", loco_outcome="granted") == 6
        assert total("loco_acquire_requests_total", loco_agent_id="writer") == 1
        assert total("loco_grants_total") == 7
        assert total("loco_wait_duration_seconds_count") == 7
        assert total("loco_wait_ticks_count") == 7
        assert total("loco_hold_duration_seconds_count") == 6
        assert total("loco_scheduler_ticks_total") == 6
        assert total("loco_throttles_total", error_type="429", gen_ai_provider_name="openai") == 1
        assert total("loco_requests_active", loco_agent_id="analyst") == 1
        assert total("loco_requests_active", loco_agent_id="writer") == 0
        assert total("loco_requests_waiting", loco_agent_id="writer") == 1
        assert total("loco_queue_weight", loco_agent_id="writer") > 0
        assert total("loco_resource_capacity") == 1
        assert total("loco_active") == 2
        assert total("loco_budget_limit_USD", loco_budget_scope="all") == 1
        assert total("loco_budget_spent_USD") == total("loco_spend_USD_total") > 0
        assert total("loco_budget_reserved_USD") > 0
        assert total("loco_budget_weight_spent", loco_budget_key="writer") == total(
            "loco_spend_weight_total", loco_agent_id="writer"
        )
        assert total("loco_budget_decisions_total", loco_budget_action="alert", loco_budget_key="writer") == 1
        assert total("loco_budget_decisions_total", loco_budget_action="reject", loco_budget_scope="all") == 0
        assert total("loco_spend_unpriced_total", gen_ai_provider_name="anthropic") == 1
        assert total("gen_ai_client_operation_duration_seconds_count", gen_ai_provider_name="openai") == 4
        assert total("gen_ai_client_token_usage_sum", gen_ai_token_type="input") == 3 * 6
        assert total("loco_tokens_total", gen_ai_token_type="input", loco_agent_id="writer") == 6
        assert total("loco_tokens_total", gen_ai_token_type="input", loco_agent_id="analyst") > 3 * 6


def test_one_program_counts_the_same_on_every_path(on: Run) -> None:
    """Durations and their ratios vary from run to run; nothing else does."""
    first, *others = (
        {point: value for point, value in on(path).otlp.items() if not re.search("_seconds|_slowdown", point[0])}
        for path in PATHS
    )
    assert all(other == first for other in others)


@every_path
def test_spans_arrive(path: str, on: Run) -> None:
    spans = on(path).spans
    acquires = [span for span in spans if span["name"] == "acquire llm_api"]
    who = [{item["key"]: item["value"] for item in span["attributes"]}["loco.agent.id"] for span in acquires]
    # The one that tried again has a span for each of its waits.
    assert Counter(agent["stringValue"] for agent in who) == CALLS + Counter(analyst=1)
    assert names(spans)["step"] == CALLS["writer"]
    # The inference spans are ours but for Anthropic's, whose SDK makes its own.
    assert names(spans)["chat gpt-4o"] == CALLS["analyst"]
    events = Counter(event["name"] for span in spans for event in span.get("events", ()))
    assert events == {
        "loco.throttle": 1,
        "loco.budget": 2,
        "loco.budget.threshold": 3,
    }
    facts = Counter(item["key"] for span in spans for item in span["attributes"])
    assert (facts["loco.grant.reason"], facts["loco.spend.weight"]) == (8, 7)
    (waited,) = [span for span in acquires if any(item["key"] == "loco.wait.reason" for item in span["attributes"])]
    (link,) = waited["links"]
    assert link["spanId"] in {span["spanId"] for span in acquires}


# -- the judge --------------------------------------------------------------------------------------------------------


@pytest.fixture
def victoria_metrics(tmp_path: Path) -> Iterator[Callable[[int], VictoriaMetrics]]:
    """Start one that scrapes a port."""
    program = shutil.which("victoria-metrics")
    if program is None:
        pytest.skip("no victoria-metrics on the path; .ci/run installs it where the Debian archive can be reached")
    with ExitStack() as stack:
        yield lambda target: stack.enter_context(VictoriaMetrics(program, tmp_path, target))


def test_server_of_both_paths_keeps_one_name_and_value(
    victoria_metrics: Callable[[int], VictoriaMetrics], llm_server: LlmServer, tmp_path: Path
) -> None:
    """It scrapes the program and is sent OTLP by it, and translates by rules that others wrote."""
    shown = free_port()
    server = victoria_metrics(shown)

    def kept(job: str) -> Series:
        return of_samples(server.ask(f'{{__name__=~"(loco|gen_ai)_.+", job{job}"scrape"}}'))

    endpoint = f"http://127.0.0.1:{server.port}/opentelemetry"
    with holding(llm_server, tmp_path, HTTP, endpoint, shown, OTEL_TRACES_EXPORTER="none") as program:
        exported = of_page(steady(program, shown)).keys()
        # The server shows the series of one scrape, and of one push, one after the other.
        server.until(lambda: waiting(kept("=")) and len(kept("=")) >= len(exported))
        scraped = kept("=")
        program.tell("flush")
        program.until(lambda: program.lines() == ["holding", "flushed"])
        server.until(lambda: waiting(kept("!=")) and len(kept("!=")) >= len(exported))
        pushed = kept("!=")
        program.tell("end")
        program.ends_well()
        assert not program.errors()
    assert_same(scraped, pushed)
    ends = {InstrumentKind.HISTOGRAM: ("_bucket", "_count", "_sum")}
    expected = {row.prometheus_name + end for row in EXPORTED for end in ends.get(row.kind, ("",))}
    assert {name for name, _ in pushed} == expected
