"""What an instrumented call costs over the bare SDK, on a transport that answers at once.

Bare and instrumented run in processes of their own, in turn.
"""

import json
import subprocess
import sys

_PROGRAM = """
import json, sys, time
mode = sys.argv[1]
if mode == "sdk":
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    class Nowhere(SpanExporter):
        def export(self, spans): return SpanExportResult.SUCCESS
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
if mode != "bare":
    import loco_otel
    loco_otel.install()
import httpx2, openai
answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini",
          "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello"}}],
          "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}}
chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini",
         "choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}]}
events = ("data: " + json.dumps(chunk) + "\\n\\n") * 20 + "data: [DONE]\\n\\n"
def respond(request):
    if b'"stream":true' in request.content.replace(b" ", b""):
        return httpx2.Response(200, content=events, headers={"content-type": "text/event-stream"})
    return httpx2.Response(200, json=answer)
client = openai.OpenAI(api_key="none", http_client=httpx2.Client(transport=httpx2.MockTransport(respond)))
messages = [{"role": "user", "content": "Say hello to the world in one word, please."}]
def create():
    client.chat.completions.create(model="gpt-4o-mini", messages=messages)
def stream():
    for _ in client.chat.completions.create(model="gpt-4o-mini", messages=messages, stream=True):
        pass
times = []
for call, count in ((create, 100), (stream, 30)):
    for _ in range(20):
        call()
    best = 1e9
    for _ in range(12):
        started = time.process_time()
        for _ in range(count):
            call()
        best = min(best, (time.process_time() - started) / count * 1e6)
    times.append(best)
print(json.dumps(times))
"""

_MODES = {"bare SDK": "bare", "loco_otel, no OpenTelemetry SDK": "none", "loco_otel, spans and metrics": "sdk"}
_ROUNDS = 3


def run() -> None:
    """Measure and print."""
    best = dict.fromkeys(_MODES, (float("inf"), float("inf")))
    for _ in range(_ROUNDS):
        for name, mode in _MODES.items():
            program = [sys.executable, "-c", _PROGRAM, mode]
            create, stream = json.loads(subprocess.run(program, check=True, capture_output=True).stdout)
            best[name] = (min(best[name][0], create), min(best[name][1], stream))
    bare = best["bare SDK"]
    print("\nopenai chat.completions.create on a mock transport: CPU time per call, over the bare SDK in brackets")
    for name, (create, stream) in best.items():
        print(
            f"  {name:<32} {create:7.0f} us (+{create - bare[0]:.0f})"
            f"    20-chunk stream {stream:7.0f} us (+{stream - bare[1]:.0f})"
        )
