"""Anthropic's SDK makes inference spans by itself, unless it is disabled: a call has that one or ours."""

import subprocess
import sys
from textwrap import dedent

import pytest
from patience import PATIENCE
from sdk_server import KEY, LlmServer
from sdk_versions import TRACES_ITSELF

pytestmark = pytest.mark.skipif(not TRACES_ITSELF, reason="this version of the SDK makes no spans")


PROGRAM = """
    import os

    import loco_otel
    import anthropic
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    loco_otel.install()
    options = {OPTIONS}
    question = dict(model="claude-sonnet-5", max_tokens=64, messages=[{{"role": "user", "content": "hi"}}])
    with anthropic.Anthropic(**options) as client:
        client.messages.create(**question)
        with client.messages.stream(**question) as stream:
            stream.get_final_text()
    loco_otel.uninstall()
    provider.force_flush()
    for span in exporter.get_finished_spans():
        if "gen_ai.operation.name" in span.attributes:
            waited = "loco.wait.duration" in span.attributes
            print(span.instrumentation_scope.name == "loco_otel", waited)
        elif span.name.startswith("acquire "):
            print("acquire", "loco.spend.weight" in span.attributes)
"""


@pytest.mark.parametrize(
    ("options", "environ", "ours"),
    [
        ({}, {}, False),
        ({"open_telemetry": False}, {}, True),
        ({}, {"ANTHROPIC_OPEN_TELEMETRY": "false"}, True),
        ({"open_telemetry": {}}, {"ANTHROPIC_OPEN_TELEMETRY": "false"}, False),
    ],
)
def test_each_call_has_one_inference_span(
    options: dict[str, object], environ: dict[str, str], ours: bool, server: LlmServer
) -> None:
    where = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": server.url("anthropic")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", dedent(PROGRAM).format(OPTIONS=options)],
        env={**where, **environ},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()
    # Where the span is theirs, it gets the duration of the wait, and the acquire span has what the call cost.
    assert sorted(said) == sorted([f"{ours} {not ours}", f"acquire {not ours}"] * 2)
