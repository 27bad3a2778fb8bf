"""OpenTelemetry's own tool reads semconv/ and finds nothing wrong with what is emitted.

It reports on spans and events only with matchers, as neither names its definition.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from patience import PATIENCE
from semconv_registry import ROOT, STAND_INS, Registry
from telemetry_scenario import Rig, everything

pytestmark = pytest.mark.skipif(
    shutil.which("weaver") is None,
    reason="`weaver` is not on the PATH (github.com/open-telemetry/weaver/releases; no package index has it)",
)


_SETTINGS = """\
[registry]
v2 = true

[[live-check.finding_level_overrides]]
ids = ["unexpected_attribute", "undefined_enum_variant", "kind_mismatch"]
level = "violation"

# What the SDK says of itself is in no registry of ours.
[[live-check.finding_filters]]
signal_type = "resource"
exclude_samples = ["service.*", "telemetry.sdk.*"]

[resolve.schema_url_overrides]
"""


@pytest.fixture(autouse=True)
def weaver_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write weaver's settings where it reads them: the working directory."""
    (tmp_path / ".weaver.toml").write_text(_SETTINGS + "".join(_settings()))
    monkeypatch.chdir(tmp_path)


def test_weaver_accepts_the_registry() -> None:
    command = ("weaver", "registry", "check", "--registry", str(ROOT))
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_weaver_accepts_what_is_emitted() -> None:
    # It demands one exact version of the SDK, so it is no part of the extra `test`: `make test` adds it with weaver.
    from opentelemetry.test.weaver_live_check import WeaverLiveCheck

    with WeaverLiveCheck(registry=str(ROOT)) as weaver:
        endpoint = weaver.otlp_endpoint
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=endpoint, insecure=True))
        rig = Rig(readers=[reader])
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=True)
        rig.tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
        everything(rig)
        rig.tracer_provider.shutdown()
        rig.meter_provider.shutdown()
        report = weaver.end_and_check()
    seen = report["statistics"]["seen_registry_metrics"]
    assert {name for name, count in seen.items() if count} >= Registry.load(ROOT).metrics.keys()


def _settings() -> Iterator[str]:
    """Where to find the registries that ours depends on, and which definition a span or an event has."""
    for url, directory in STAND_INS.items():
        yield f"{json.dumps(url)} = {json.dumps(str(directory))}\n"
    document = yaml.safe_load((ROOT / "loco.yaml").read_text(encoding="utf-8"))
    prefixes = {row["type"]: row["name"]["note"].strip("`").split("{")[0] for row in document["spans"]}
    # The first that fits counts.
    for span_type, prefix in sorted(prefixes.items(), key=lambda item: -len(item[1])):
        yield from _matcher(span_type, "span", f"name.startsWith({json.dumps(prefix)})")
    for row in document["events"]:
        yield from _matcher(row["name"], "span_event", f"name == {json.dumps(row['name'])}")


def _matcher(signal: str, sample_type: str, when: str) -> Iterator[str]:
    yield "\n[[live-check.matchers]]\n"
    yield f"id = {json.dumps(f'{sample_type} {signal}')}\nsample_type = {json.dumps(sample_type)}\n"
    yield f"when = '{when}'\nsignal = {json.dumps(signal)}\n"
