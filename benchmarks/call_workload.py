"""Calls of openai on a transport that answers at once, under the instrumentors and the OpenTelemetry SDK of one way."""

import asyncio
import json
import os
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, NamedTuple

import httpx2
from opentelemetry import context, metrics, trace
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from benchmarks.company import Instrumentor

CHUNKS = 20, 100
"""Chunks of a short and of a long stream: the difference is what further chunks cost."""
SURROUNDINGS = ("alone", "in a span", "fifty agents")
"""No current span; one of the program's; in turn, fifty of the program's, each of which names an agent."""
_AGENTS = 50
_LIMIT = "64"
"""More than one: each call takes and returns a slot, and none waits."""
_MAX_COLLECTION = 3_600_000
"""Milliseconds."""
_FOREIGN_SETTINGS = ("OTEL_", "LOCO_", "OPENAI_", "TRACELOOP_", "OPENINFERENCE_")
"""Settings of the shell that starts it, which are none of the benchmark's."""

_MODEL = "gpt-4o-mini"
_ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": _MODEL,
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello"}}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
}
_CHUNK = {
    "id": "1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": _MODEL,
    "choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}],
}
_STREAMS = {count: f"data: {json.dumps(_CHUNK)}\n\n" * count + "data: [DONE]\n\n" for count in CHUNKS}
"""By number of chunks, which the benchmark asks for as `max_tokens`."""
_REQUEST: dict[str, Any] = {
    "model": _MODEL,
    "messages": [{"role": "user", "content": "Say hello to the world in one word, please."}],
}


class Telemetry(Enum):
    """The OpenTelemetry SDK that the program has set up."""

    NONE = "none"
    SDK = "sdk"
    """Spans are batched and dropped, metrics are collected."""
    ENCODED = "encoded"
    """Spans and metrics are encoded for OTLP, too."""


class Way(NamedTuple):
    """A way to run the calls."""

    telemetry: Telemetry = Telemetry.NONE
    instrumentors: tuple[Instrumentor, ...] = ()
    limited: bool = False
    """With a capacity."""

    @property
    def name(self) -> str:
        """What the tables call it."""
        names = " and ".join(each.value for each in self.instrumentors) or "bare SDK"
        return f"{names}, a capacity" if self.limited else names

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of the process that runs it."""
        return self.telemetry.value, *(each.value for each in self.instrumentors)

    @property
    def environ(self) -> dict[str, str]:
        """The environment of that process."""
        environ = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN_SETTINGS)}
        environ["PYTHONPATH"] = os.pathsep.join(str(each.folder) for each in self.instrumentors)
        return environ | ({"LOCO_CAPACITY": _LIMIT} if self.limited else {})

    @classmethod
    def parse(cls, telemetry: str, *instrumentors: str) -> "Way":
        """Return the way that the arguments of a process name."""
        return cls(Telemetry(telemetry), tuple(map(Instrumentor, instrumentors)))


class _Exporter(SpanExporter):
    """Counts spans, may encode them, and drops them."""

    def __init__(self, *, encodes: bool) -> None:
        self._encodes = encodes
        self.count = 0

    def export(self, spans: Iterable[ReadableSpan]) -> SpanExportResult:
        batch = tuple(spans)
        self.count += len(batch)
        if self._encodes:
            encode_spans(batch).SerializeToString()
        return SpanExportResult.SUCCESS


class _Reader(InMemoryMetricReader):
    """Collects for as long as it takes: under callgrind, on a busy machine, more than the SDK's ten seconds."""

    def collect(self, timeout_millis: float = 0) -> None:
        super().collect(max(timeout_millis, _MAX_COLLECTION))


class Workload:
    """The calls of this process, by kind and surroundings.

    Args:
        way: what is set up for them. One workload a process: providers and instrumentors are global.

    """

    def __init__(self, way: Way) -> None:
        self._encodes = way.telemetry is Telemetry.ENCODED
        self._exporter = _Exporter(encodes=self._encodes)
        self._spans = TracerProvider()
        self._reader: InMemoryMetricReader | None = None
        if way.telemetry is not Telemetry.NONE:
            self._reader = _Reader()
            self._spans.add_span_processor(BatchSpanProcessor(self._exporter))
            trace.set_tracer_provider(self._spans)
            metrics.set_meter_provider(MeterProvider([self._reader]))
        for instrumentor in way.instrumentors:
            instrumentor.instrument()
        self._contexts = _make_contexts()
        few, many = CHUNKS
        self.kinds: dict[str, Callable[[list[context.Context], int], None]] = {
            "create": _make_sync_calls(),
            "async": _make_async_calls(),
            "few chunks": _make_sync_calls(few),
            "many chunks": _make_sync_calls(many),
            "few async chunks": _make_async_calls(few),
            "many async chunks": _make_async_calls(many),
        }
        """What makes a number of calls in turn in some contexts."""

    def make_calls(self, kind: str, where: str, count: int) -> None:
        """Make calls."""
        self.kinds[kind](self._contexts[where], count)

    def export_spans(self) -> None:
        """Export the spans of the calls so far."""
        self._spans.force_flush()

    def collect_metrics(self) -> None:
        """Collect the metrics."""
        data = None if self._reader is None else self._reader.get_metrics_data()
        if data is not None and self._encodes:
            encode_metrics(data).SerializeToString()

    def count_spans(self, where: str) -> int:
        """Return the number of spans of one `create`."""
        self.export_spans()
        before = self._exporter.count
        self.make_calls("create", where, 1)
        self.export_spans()
        return self._exporter.count - before


def _make_contexts() -> dict[str, list[context.Context]]:
    tracer = trace.get_tracer("program")
    nowhere = context.Context()

    def start_span(**attributes: str) -> context.Context:
        return trace.set_span_in_context(tracer.start_span("program", nowhere, attributes=attributes), nowhere)

    agents = [start_span(**{"gen_ai.agent.name": f"agent {number}"}) for number in range(_AGENTS)]
    return dict(zip(SURROUNDINGS, ([nowhere], [start_span()], agents), strict=True))


def _answer_request(request: httpx2.Request) -> httpx2.Response:
    asked = json.loads(request.content)
    if not asked.get("stream"):
        return httpx2.Response(200, json=_ANSWER)
    events = _STREAMS[asked["max_tokens"]]
    return httpx2.Response(200, content=events, headers={"content-type": "text/event-stream"})


def _make_sync_calls(chunks: int = 0) -> Callable[[list[context.Context], int], None]:
    import openai  # noqa: PLC0415 - after the instrumentors

    client = openai.OpenAI(api_key="none", http_client=httpx2.Client(transport=httpx2.MockTransport(_answer_request)))
    create: Any = client.chat.completions.create

    def ask(contexts: list[context.Context], count: int) -> None:
        for number in range(count):
            token = context.attach(contexts[number % len(contexts)])
            if chunks:
                for _ in create(**_REQUEST, stream=True, max_tokens=chunks):
                    pass
            else:
                create(**_REQUEST)
            context.detach(token)

    return ask


def _make_async_calls(chunks: int = 0) -> Callable[[list[context.Context], int], None]:
    import openai  # noqa: PLC0415 - after the instrumentors

    transport = httpx2.MockTransport(_answer_request)
    client = openai.AsyncOpenAI(api_key="none", http_client=httpx2.AsyncClient(transport=transport))
    create: Any = client.chat.completions.create
    runner = asyncio.Runner()

    async def ask(contexts: list[context.Context], count: int) -> None:
        for number in range(count):
            token = context.attach(contexts[number % len(contexts)])
            if chunks:
                async for _ in await create(**_REQUEST, stream=True, max_tokens=chunks):
                    pass
            else:
                await create(**_REQUEST)
            context.detach(token)

    return lambda contexts, count: runner.run(ask(contexts, count))
