"""The agents' program, run as anybody would: unchanged, under `opentelemetry-instrument`."""

import sys
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.request import ProxyHandler, build_opener

from child import Child, command, environment, free_port
from prometheus_client.parser import text_string_to_metric_families

_open = build_opener(ProxyHandler({})).open


class Standing(NamedTuple):
    """Who holds a slot and who waits for one at a moment, by agent; and the SDKs whose calls are scheduled."""

    active: dict[str, int]
    waiting: dict[str, int]
    sdks: tuple[str, ...]


class Program:
    """A program of agents, whose SDKs find the mock server and whose telemetry finds the demo.

    Args:
        path: the program.
        capacity: how many of its calls may be under way at once.
        server: host and port of the mock LLM server.
        receiver: the endpoint of the OTLP receiver.
        directory: for its output.
        libraries: a folder of packages that come before the installed ones.

    """

    def __init__(
        self,
        path: Path,
        *,
        capacity: int,
        server: str,
        receiver: str,
        directory: Path,
        libraries: Path | None = None,
    ) -> None:
        port = free_port()
        self.metrics_url = f"http://127.0.0.1:{port}/metrics"
        variables = environment(
            LOCO_CAPACITY=str(capacity),
            OPENAI_API_KEY="demo",
            OPENAI_BASE_URL=f"http://{server}/v1",
            ANTHROPIC_API_KEY="demo",
            ANTHROPIC_BASE_URL=f"http://{server}/anthropic",
            GOOGLE_API_KEY="demo",
            GOOGLE_GEMINI_BASE_URL=f"http://{server}/gemini",
            OTEL_SERVICE_NAME=path.stem,
            OTEL_TRACES_EXPORTER="otlp",
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver,
            OTEL_BSP_SCHEDULE_DELAY="200",
            OTEL_METRICS_EXPORTER="prometheus",
            OTEL_EXPORTER_PROMETHEUS_HOST="127.0.0.1",
            OTEL_EXPORTER_PROMETHEUS_PORT=str(port),
            # The launcher would send logs to a collector on the default port, and complain that there is none.
            OTEL_LOGS_EXPORTER="none",
        )
        if libraries is not None:
            variables["PYTHONPATH"] = str(libraries.resolve())
            # Google ADK announces its own successors.
            variables["PYTHONWARNINGS"] = "ignore"
        launcher = command("opentelemetry-instrument")
        self._child = Child([launcher, sys.executable, path], variables, directory / "program.txt")
        self.stop = self._child.stop
        self.new_lines = self._child.new_lines

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._child.status

    def standing(self) -> Standing | None:
        """Return what its /metrics says; None while nobody answers there."""
        try:
            with _open(self.metrics_url, timeout=2) as answer:
                page = answer.read().decode()
        except (OSError, HTTPException):  # it may end at any moment
            return None
        samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]

        def by_agent(name: str) -> dict[str, int]:
            return {
                sample.labels["loco_agent_id"]: int(sample.value)
                for sample in samples
                if sample.name == name and sample.value
            }

        sdks = sorted(
            f"{sample.labels['loco_sdk_name']} {sample.labels['loco_sdk_version']}"
            for sample in samples
            if sample.name == "loco_active"
        )
        return Standing(by_agent("loco_requests_active"), by_agent("loco_requests_waiting"), tuple(sdks))
