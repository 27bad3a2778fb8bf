"""The program under `opentelemetry-instrument`, in a process of its own, with nothing of ours in its code."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent

import pytest
from patience import PATIENCE
from sdk_collector import Collector
from sdk_program import environ, script
from sdk_server import KEY, LlmServer, free_port, peak
from sdk_versions import TRACES_ITSELF

from loco_otel._budgets.sqlite_ledger import LedgerView

QUESTION = "planted-question-4711"
ANSWER = "planted-answer-0815"

CALLS = f"""
    import openai, anthropic

    question = [{{"role": "user", "content": "{QUESTION}"}}]
    with openai.OpenAI() as client:
        print("openai:", client.chat.completions.create(model="gpt-4o", messages=question).choices[0].message.content)
    with anthropic.Anthropic() as client, client.messages.stream(
        model="claude-sonnet-5", max_tokens=64, messages=question
    ) as stream:
        print("anthropic:", stream.get_final_text())
"""
ANSWERS = f"openai: {ANSWER}\nanthropic: {ANSWER}\n"

PATCHED = """
    import anthropic, openai

    for sdk in (openai, anthropic):
        print(sdk.__name__, hasattr(vars(sdk._base_client.SyncAPIClient)["request"], "__wrapped__"))
"""


class Program:
    """Runs Python source in a process of its own, whose SDKs talk to the server."""

    def __init__(self, folder: Path, server: LlmServer) -> None:
        self._folder = folder
        self._environ = environ(server)

    def run(self, *sources: str, launched: bool = True, **changes: str) -> "subprocess.CompletedProcess[str]":
        path = self._folder / "program.py"
        path.write_text("".join(dedent(source) for source in sources))
        launcher = [script("opentelemetry-instrument")] if launched else []
        result = subprocess.run(
            [*launcher, sys.executable, path],
            env={**self._environ, **changes},
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result


@pytest.fixture
def program(tmp_path: Path, server: LlmServer) -> Program:
    server.script({"type": "reply", "text": ANSWER, "times": None})
    return Program(tmp_path, server)


# -- what is patched --------------------------------------------------------------------------------------------------


def test_launcher_imports_nothing_before_the_program(program: Program) -> None:
    source = """
        import sys

        print({"loco_otel"} <= set(sys.modules), {"openai", "anthropic", "httpx", "httpx2"} & set(sys.modules))
    """
    result = program.run(source, PATCHED)
    assert result.stdout == "True set()\nopenai True\nanthropic True\n"


def test_install_imports_nothing_before_the_program(program: Program) -> None:
    source = """
        import sys
        import loco_otel

        print(loco_otel.install(), {"openai", "anthropic", "httpx", "httpx2"} & set(sys.modules))
    """
    result = program.run(source, PATCHED, launched=False)
    ours = {entry.name for entry in entry_points(group="opentelemetry_instrumentor") if entry.name[:5] == "loco_"}
    # aiobotocore requires a botocore that is older than the newest, and httpx a setting that names hosts.
    absent = {"loco_httpx", "loco_httpx2"} | (set() if find_spec("aiobotocore") else {"loco_aiobotocore"})
    entries = tuple(sorted(ours - absent))
    assert result.stdout == f"{entries} set()\nopenai True\nanthropic True\n"


@pytest.mark.parametrize(
    ("environ", "openai", "anthropic"),
    [
        ({}, True, True),
        ({"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "loco_openai"}, False, True),
        ({"LOCO_ENABLED": "false"}, False, False),
    ],
    ids=["by default", "one left out", "switched off"],
)
def test_excluded_sdk_is_not_patched(
    environ: Mapping[str, str], openai: bool, anthropic: bool, program: Program
) -> None:
    result = program.run(PATCHED, CALLS, **environ)
    assert result.stdout == f"openai {openai}\nanthropic {anthropic}\n{ANSWERS}"
    assert not result.stderr


# -- a wrong setting --------------------------------------------------------------------------------------------------

LATER = """
    from opentelemetry.instrumentation.instrumentor import BaseInstrumentor


    class LaterInstrumentor(BaseInstrumentor):
        def instrumentation_dependencies(self):
            return ()

        def _instrument(self, **kwargs):
            print("another instrumentor")

        def _uninstrument(self, **kwargs):
            pass
"""


@pytest.fixture
def with_another_instrumentor(tmp_path: Path) -> Mapping[str, str]:
    """One that is loaded after ours: its distribution is found further down the path."""
    folder = tmp_path / "another"
    info = folder / "another_instrumentor-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "another_instrumentor.py").write_text(dedent(LATER))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: another-instrumentor\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[opentelemetry_instrumentor]\nanother = another_instrumentor:LaterInstrumentor\n"
    )
    overlay = [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    return {"PYTHONPATH": os.pathsep.join([*overlay, sysconfig.get_path("purelib"), str(folder)])}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LOCO_CAPACITY", "-3", "must be "),
        ("LOCO_CAPACITY", "plenty", "must be "),
        ("LOCO_BUDGETS", "analyst=nan", "must be "),
        ("LOCO_LEDGER", "/", "the ledger / can't be used: it is a folder"),
    ],
)
def test_invalid_setting_disables_us_alone(
    name: str, value: str, said: str, program: Program, with_another_instrumentor: Mapping[str, str], server: LlmServer
) -> None:
    result = program.run(PATCHED, CALLS, **{name: value}, **with_another_instrumentor)
    assert result.stdout == f"another instrumentor\nopenai False\nanthropic False\n{ANSWERS}"
    (line,) = [line for line in result.stderr.splitlines() if "calls of all SDKs go unscheduled" in line]
    assert f"{name}={value}: {said}" in line
    assert "Traceback" not in result.stderr


def test_other_instrumentor_is_loaded_after_ours(
    program: Program, with_another_instrumentor: Mapping[str, str]
) -> None:
    """Else the test above would prove nothing."""
    source = """
        from importlib.metadata import entry_points

        print([entry.name for entry in entry_points(group="opentelemetry_instrumentor")])
    """
    result = program.run(source, launched=False, **with_another_instrumentor)
    names = result.stdout
    assert 0 < names.index("'loco_openai'") < names.index("'another'")
    assert 0 < names.index("'loco_anthropic'") < names.index("'another'")


# -- where telemetry goes ---------------------------------------------------------------------------------------------


def test_scheduling_works_without_the_opentelemetry_sdk(program: Program, server: LlmServer) -> None:
    server.script({"type": "delay", "seconds": 0.15, "times": None})
    source = """
        from concurrent.futures import ThreadPoolExecutor
        import loco_otel, openai
        from loco_otel._runtime import process

        loco_otel.install()
        question = [{"role": "user", "content": "hi"}]
        with openai.OpenAI() as client, ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: client.chat.completions.create(model="gpt-4o", messages=question), range(4)))
        print(process.get_runtime().engine.observed, loco_otel.snapshot().resources[0].tick)
    """
    result = program.run(source, launched=False, LOCO_CAPACITY="1")
    assert result.stdout == "False 4\n"
    assert peak(server.requests()) == 1


def test_otlp_export_works(program: Program) -> None:
    with Collector() as collector:
        result = program.run(
            CALLS,
            LOCO_CAPACITY="1",
            OTEL_SERVICE_NAME="harbour",
            OTEL_TRACES_EXPORTER="otlp",
            OTEL_METRICS_EXPORTER="otlp",
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.port}",
        )
    assert result.stdout == ANSWERS
    spans = [span.item for span in collector.spans() if span.scope == "loco_otel"]
    # Anthropic's SDK makes the inference span of its own calls, since it can.
    by_us = ["chat gpt-4o"] if TRACES_ITSELF else ["chat claude-sonnet-5", "chat gpt-4o"]
    names = [*["acquire llm_api"] * 2, *["call harbour"] * 2, *by_us]
    assert sorted(span["name"] for span in spans) == names
    facts = [item["key"] for span in spans for item in span["attributes"]]
    assert (facts.count("loco.grant.reason"), facts.count("loco.spend.weight")) == (2, 2)
    assert not [event for span in spans for event in span.get("events", ())]
    metrics = {metric.item["name"] for metric in collector.metrics()}
    assert {"loco.grants", "loco.wait.duration", "loco.resource.capacity", "loco.tokens", "loco.active"} <= metrics
    for secret in (KEY, QUESTION, ANSWER):
        assert secret.encode() not in collector.everything()
        assert secret not in result.stderr


def test_prometheus_export_works(program: Program) -> None:
    port = free_port()
    source = f"""
        import http.client

        with openai.OpenAI() as client, client.chat.completions.create(model="gpt-4o", messages=question, stream=True):
            connection = http.client.HTTPConnection("127.0.0.1", {port})
            connection.request("GET", "/metrics")
            print(connection.getresponse().read().decode())
            connection.close()
    """
    result = program.run(
        CALLS,
        source,
        LOCO_CAPACITY="1",
        LOCO_AGENT_ID="analyst",
        OTEL_METRICS_EXPORTER="prometheus",
        OTEL_EXPORTER_PROMETHEUS_PORT=str(port),
    )
    assert result.stdout.startswith(ANSWERS)
    page = result.stdout.removeprefix(ANSWERS)
    families = dict(line.split()[2:4] for line in page.splitlines() if line.startswith("# TYPE loco_"))
    assert {
        "loco_grants_total": "counter",
        "loco_acquire_requests_total": "counter",
        "loco_wait_duration_seconds": "histogram",
        "loco_hold_duration_seconds": "histogram",
        "loco_resource_capacity": "gauge",
        "loco_requests_active": "gauge",
        "loco_tokens_total": "counter",
        "loco_active": "gauge",
    }.items() <= families.items()
    assert sample(page, "loco_acquire_requests_total") == 3
    assert sample(page, "loco_requests_active") == 1
    for secret in (KEY, QUESTION, ANSWER):
        assert secret not in page


def sample(page: str, name: str) -> float:
    """Return the only sample of a family above 0, which is the analyst's."""
    lines = [line for line in page.splitlines() if line.startswith(f"{name}{{")]
    (line,) = [line for line in lines if not line.endswith(" 0.0")]
    assert 'loco_agent_id="analyst"' in line
    return float(line.rpartition(" ")[2])


OPEN_STREAMS = """
import openai

client = openai.OpenAI()


def ask():
    return client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "hi"}], max_tokens=64, stream=True
    )


next(iter(ask()))  # dropped
read, unread = ask(), ask()
next(iter(read))
"""


@pytest.mark.parametrize("budgets", ["none", "*=1"])
def test_streams_dropped_or_open_at_the_end_are_charged(budgets: str, program: Program, tmp_path: Path) -> None:
    ran = program.run(
        OPEN_STREAMS, LOCO_LEDGER=str(tmp_path / "l.db"), LOCO_BUDGETS=budgets, OTEL_TRACES_EXPORTER="console"
    )
    view = LedgerView(tmp_path / "l.db")
    (totals,) = view.compute_totals(("model",))
    assert (totals.calls, totals.estimated, totals.unpriced) == (3, 3, 0)
    assert totals.usd > 0
    assert [(it.spent, it.reserved) for it in view.read_statuses(0.0)] == (
        [(totals.usd, 0)] if budgets != "none" else []
    )
    assert ran.stdout.count('"name": "chat gpt-4o"') == 3
    assert ran.stderr == ""
