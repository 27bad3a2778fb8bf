"""gunicorn loads the program once and forks four workers: each schedules and reports for itself."""

import http.client
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from exporters_page import commands
from patience import PATIENCE
from receivers import Rotel
from sdk_collector import Collector, Told
from sdk_program import Running, environ, script
from sdk_server import LlmServer, free_port, peak

# The client is made before the fork, as programs do.
APPLICATION = """
    import os
    import openai

    client = openai.OpenAI()

    def application(environ, start_response):
        worker = str(os.getpid())
        question = [{"role": "user", "content": "how deep is the harbour?"}]
        client.chat.completions.create(model="gpt-4o", messages=question, user=worker)
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(worker)))])
        return [worker.encode()]
"""

WORKERS = 4
CAPACITY = 2
WAVE = 32
"""Requests at a time: more than all workers have slots for."""

_MOST_WAVES = 20


class Site:
    """What gunicorn serves, and where its telemetry arrives."""

    def __init__(self, port: int, process: Running, receiver: Rotel, collector: Collector) -> None:
        self.process = process
        self.receiver = receiver
        self.collector = collector
        self._port = port

    def wave(self) -> list[str]:
        """Ask many times at once; return which process answered each."""
        with ThreadPoolExecutor(WAVE) as threads:
            return list(threads.map(lambda _: self.get(), range(WAVE)))

    def get(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            connection.request("GET", "/", headers={"Connection": "close"})
            answer = connection.getresponse()
            assert answer.status == 200, self.process.errors()
            return answer.read().decode()
        finally:
            connection.close()


@pytest.fixture(params=["OTLP over HTTP", "OTLP over gRPC"])
def site(request: pytest.FixtureRequest, server: LlmServer, tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "app.py").write_text(dedent(APPLICATION))
    port = free_port()
    launcher, gunicorn, *options = commands("Forking servers").command
    assert options[:3] == ["--preload", "--workers", str(WORKERS)]
    with Collector() as collector, Rotel(tmp_path, collector.port) as rotel:
        receiver = rotel.grpc_port if request.param.endswith("gRPC") else rotel.http_port
        telemetry = {
            **commands(request.param).settings,
            "OTEL_SERVICE_NAME": "harbour",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver}",
        }
        with Running(
            [script(launcher), script(gunicorn), f"--bind=127.0.0.1:{port}", *options],
            tmp_path,
            {**environ(server), **telemetry, "LOCO_CAPACITY": str(CAPACITY)},
        ) as process:
            process.until(lambda: process.errors().count("Booting worker") == WORKERS)
            yield Site(port, process, rotel, collector)


def test_each_worker_schedules_and_reports_itself(site: Site, server: LlmServer) -> None:
    server.script({"type": "delay", "seconds": 0.25, "times": None})
    answers: Counter[str] = Counter()
    for _ in range(_MOST_WAVES):
        wave = Counter(site.wave())
        answers += wave
        # Everyone had more at once than it has slots for, so everyone let some wait.
        if len(wave) == WORKERS and min(wave.values()) > CAPACITY:
            break
    else:
        pytest.fail(f"the system never spread the requests: {answers}")

    by_worker = defaultdict(list)
    for record in server.requests():
        by_worker[record.body["user"]].append(record)
    assert {worker: len(records) for worker, records in by_worker.items()} == answers
    assert {worker: peak(records) for worker, records in by_worker.items()} == dict.fromkeys(answers, CAPACITY)

    def acquires() -> dict[str, list[Mapping[str, Any]]]:
        return by_instance(span for span in site.collector.spans() if span.item["name"] == "acquire llm_api")

    def counted() -> dict[str, int]:
        """Return how many requests each process decided, by its last report."""
        return {
            instance: sum(int(point["asInt"]) for point in metrics[-1]["sum"]["dataPoints"])
            for instance, metrics in by_instance(
                metric for metric in site.collector.metrics() if metric.item["name"] == "loco.acquire.requests"
            ).items()
        }

    site.process.stop()
    calls = answers.total()
    site.receiver.until(lambda: sum(map(len, acquires().values())) >= calls and sum(counted().values()) >= calls)
    assert sorted(len(spans) for spans in acquires().values()) == sorted(answers.values())
    assert counted() == {instance: len(spans) for instance, spans in acquires().items()}
    assert all(any(waited(span) for span in spans) for spans in acquires().values())
    ids = [span.item["spanId"] for span in site.collector.spans()]
    assert len(set(ids)) == len(ids)


def waited(span: Mapping[str, Any]) -> bool:
    return any(item["key"] == "loco.wait.reason" for item in span["attributes"])


def by_instance(told: Iterable[Told]) -> dict[str, list[Mapping[str, Any]]]:
    instances: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for one in told:
        assert one.resource["service.name"] == "harbour"
        instances[one.resource["service.instance.id"]].append(one.item)
    return instances
