"""One child of the benchmark of calls: makes them under the instrumentors that are named, and prints what each took.

Run as `python -m benchmarks.called OTEL NAME...`: 1 for an OpenTelemetry SDK or 0 for none, and the instrumentors.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any

import httpx2
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from benchmarks.company import Instrumentor

CHUNKS = 20, 100
_BLOCKS = 12
_ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o-mini",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello"}}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
}
_CHUNK = {
    "id": "1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "gpt-4o-mini",
    "choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}],
}
_MESSAGES = [{"role": "user", "content": "Say hello to the world in one word, please."}]


class CountingExporter(SpanExporter):
    """Counts spans and drops them."""

    def __init__(self) -> None:
        self.count = 0

    def export(self, spans: Iterable[ReadableSpan]) -> SpanExportResult:
        """Count."""
        self.count += len(tuple(spans))
        return SpanExportResult.SUCCESS


def _answer_request(request: httpx2.Request) -> httpx2.Response:
    asked = json.loads(request.content)
    if not asked.get("stream"):
        return httpx2.Response(200, json=_ANSWER)
    events = _STREAMS[asked["max_tokens"]]
    return httpx2.Response(200, content=events, headers={"content-type": "text/event-stream"})


_STREAMS = {count: f"data: {json.dumps(_CHUNK)}\n\n" * count + "data: [DONE]\n\n" for count in CHUNKS}
"""By number of chunks, which the benchmark asks for as `max_tokens`."""


def make_calls() -> dict[str, tuple[int, Callable[[int], None]]]:
    """Return, by name, how many calls make a block, and what makes them."""
    import openai  # noqa: PLC0415 - after the instrumentors

    transport = httpx2.MockTransport(_answer_request)
    create: Any = openai.OpenAI(api_key="none", http_client=httpx2.Client(transport=transport)).chat.completions.create
    acreate: Any = openai.AsyncOpenAI(
        api_key="none", http_client=httpx2.AsyncClient(transport=transport)
    ).chat.completions.create
    runner = asyncio.Runner()

    def ask(count: int) -> None:
        for _ in range(count):
            create(model="gpt-4o-mini", messages=_MESSAGES)

    async def aask(count: int) -> None:
        for _ in range(count):
            await acreate(model="gpt-4o-mini", messages=_MESSAGES)

    def stream(chunks: int, count: int) -> None:
        for _ in range(count):
            for _ in create(model="gpt-4o-mini", messages=_MESSAGES, stream=True, max_tokens=chunks):
                pass

    return {
        "create": (25, ask),
        "async": (25, lambda count: runner.run(aask(count))),
        **{f"{chunks} chunks": (160 // chunks + 3, partial(stream, chunks)) for chunks in CHUNKS},
    }


def main() -> None:
    """Print microseconds of CPU time per call, by surroundings and kind of call, and how many spans a create has."""
    with_otel, *names = sys.argv[1:]
    spans = CountingExporter()
    provider = TracerProvider()
    if with_otel == "1":
        provider.add_span_processor(BatchSpanProcessor(spans))
        trace.set_tracer_provider(provider)
        metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
    for name in names:
        Instrumentor(name).instrument()
    calls = make_calls()
    for count, call in calls.values():
        call(count)
    tracer = trace.get_tracer("program")
    surroundings = {"alone": nullcontext, "in a span": lambda: tracer.start_as_current_span("program")}
    spans_of_one = {}
    for where, around in surroundings.items():
        with around():
            provider.force_flush()
            spans.count = 0
            calls["create"][1](1)
            provider.force_flush()
            spans_of_one[where] = spans.count
    blocks: dict[str, dict[str, list[float]]] = {where: {kind: [] for kind in calls} for where in surroundings}
    for _ in range(_BLOCKS):
        for where, around in surroundings.items():
            for kind, (count, call) in calls.items():
                with around():
                    started = time.process_time()
                    call(count)
                    # Here, so that what is handed to the exporter counts, and is never more than its queue holds.
                    provider.force_flush()
                    blocks[where][kind].append((time.process_time() - started) / count * 1e6)
    times = {
        where: {kind: sorted(times)[_BLOCKS // 5] for kind, times in kinds.items()} for where, kinds in blocks.items()
    }
    print(json.dumps({"spans": spans_of_one, "times": times}))


if __name__ == "__main__":
    main()
