"""The file that `OTEL_CONFIG_FILE` names sets up spans and metrics of loco-otel as it does those of others."""

import json
from pathlib import Path

from sdk_collector import Collector
from sdk_program import environ, launched
from sdk_server import LlmServer

PROGRAM = """
    import openai

    question = [{"role": "user", "content": "how deep is the harbour?"}]
    with openai.OpenAI() as client:
        client.chat.completions.create(model="gpt-4o", messages=question)
"""


def test_config_file_exports_spans_and_metrics(llm_server: LlmServer, tmp_path: Path) -> None:
    with Collector() as collector:

        def otlp(signal: str) -> dict[str, object]:
            return {"exporter": {"otlp_http": {"endpoint": f"http://127.0.0.1:{collector.port}/v1/{signal}"}}}

        config = tmp_path / "otel.yaml"
        # JSON is YAML.
        config.write_text(
            json.dumps(
                {
                    "file_format": "1.0",
                    "resource": {"attributes": [{"name": "service.name", "value": "harbour"}]},
                    "tracer_provider": {"processors": [{"batch": otlp("traces")}]},
                    "meter_provider": {"readers": [{"periodic": otlp("metrics")}]},
                }
            )
        )
        settings = {**environ(llm_server), "OTEL_CONFIG_FILE": str(config), "LOCO_CAPACITY": "2"}
        with launched(PROGRAM, tmp_path, settings) as program:
            program.ends_well()
        spans = {told.item["name"] for told in collector.spans() if told.resource.get("service.name") == "harbour"}
        metrics = {told.item["name"] for told in collector.metrics()}
    assert {"acquire llm_api", "chat gpt-4o"} <= spans
    assert {"loco.acquire.requests", "loco.slot.time", "loco.info", "loco.active"} <= metrics
