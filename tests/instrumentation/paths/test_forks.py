"""Two hundred forks of a program whose threads are busy in calls: no child hangs, and the parent continues."""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

from effort import scale
from sdk_collector import Collector
from sdk_program import Running, environ, launched
from sdk_server import LlmServer

FORKS = scale(200)
_GRANTED = {"key": "loco.outcome", "value": {"stringValue": "granted"}}

PROGRAM = f"""
    import os, signal, sys, threading
    import loco_otel, openai
    from opentelemetry import metrics, trace

    question = [{{"role": "user", "content": "how deep is the harbour?"}}]

    def client():
        return openai.OpenAI(http_client=openai.DefaultHttpxClient(verify=False))

    def ask(client, who):
        client.chat.completions.create(model="gpt-4o", messages=question, user=who)

    stopped = threading.Event()
    # An import that another thread is in the midst of never ends in a child: all that calls import is there first.
    all_have_called = threading.Barrier(4)
    # Some calls for each fork: the server keeps the last 1,000 requests.
    turns = threading.Semaphore(0)

    def busy():
        with client() as mine:
            ask(mine, "parent")
            all_have_called.wait()
            while turns.acquire() and not stopped.is_set():
                ask(mine, "parent")

    def child():
        signal.alarm(180)
        with client() as mine:
            ask(mine, "child")
        assert not [agent for agent in loco_otel.snapshot().resources[0].agents if agent.active or agent.waiting]
        trace.get_tracer_provider().force_flush()
        metrics.get_meter_provider().force_flush()

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    all_have_called.wait()

    ends = []
    for _ in range({FORKS}):
        turns.release(3)
        pid = os.fork()
        if not pid:
            try:
                child()
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    stopped.set()
    turns.release(3)
    for thread in threads:
        thread.join()
    print(ends.count(0), loco_otel.snapshot().resources[0].tick, flush=True)
"""


def test_no_child_hangs(server: LlmServer, tmp_path: Path) -> None:
    server.script({"type": "delay", "seconds": 0.02, "times": None})
    with Collector() as collector:
        telemetry = {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
            # The exporter's connection would be the children's too, if it had one by then.
            "OTEL_METRIC_EXPORT_INTERVAL": "3600000",
            "OTEL_BSP_SCHEDULE_DELAY": "3600000",
            "OTEL_BSP_MAX_QUEUE_SIZE": "100000",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "100000",
        }
        with launched(PROGRAM, tmp_path, {**environ(server), **telemetry, "LOCO_CAPACITY": "2"}) as program:
            program.ends_well()
            (line,) = program.lines()
            assert not program.errors()
        calls = Counter(record.body["user"] for record in server.requests())
        assert calls["child"] == FORKS
        assert line == f"{FORKS} {calls['parent']}"

        spans = Counter(
            span.resource["service.instance.id"] for span in collector.spans() if span.item["name"] == "acquire llm_api"
        )
        assert sorted(spans.values()) == [*[1] * FORKS, calls["parent"]]
        by_instance: defaultdict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
        for metric in collector.metrics():
            by_instance[metric.resource["service.instance.id"]][metric.item["name"]] = metric.item
        granted = {instance: count_granted(metrics) for instance, metrics in by_instance.items()}
        assert granted == {instance: (count, count) for instance, count in spans.items()}


def count_granted(metrics: Mapping[str, Mapping[str, Any]]) -> tuple[int, int]:
    """Return the granted requests of an instance, as its counter and its histogram have them."""

    def count(points: Iterable[Mapping[str, Any]], field: str) -> int:
        return sum(int(point[field]) for point in points if _GRANTED in point["attributes"])

    requests, waits = metrics["loco.acquire.requests"]["sum"], metrics["loco.wait.duration"]["histogram"]
    return count(requests["dataPoints"], "asInt"), count(waits["dataPoints"], "count")


def test_fork_during_gauge_creation_leaves_the_child_no_lock(tmp_path: Path) -> None:
    # Here the parent's main thread holds the lock that another thread would have.
    source = """
        import os, signal
        from opentelemetry.sdk.metrics import MeterProvider
        from loco_otel._runtime import process
        from loco_otel._telemetry import gauges

        with gauges._gauges_lock:
            child = os.fork()
            if not child:
                signal.alarm(180)
                process.get_runtime().start_telemetry(meter_provider=MeterProvider())
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """
    with Running([sys.executable, "-c", dedent(source)], tmp_path) as program:
        program.ends_well()
