"""Calls of the real SDKs emit what semconv/loco.yaml defines."""

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sdk_calls import Sdk, each, each_sdk, now, opened
from sdk_scheduling import Scheduled
from sdk_server import LlmServer
from semconv_check import check, exported
from semconv_registry import ROOT, Registry


@each_sdk
def test_calls_match_the_registry(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    reader = InMemoryMetricReader()
    meter_provider = MeterProvider([reader], shutdown_on_exit=False)
    scheduling.runtime.start_telemetry(meter_provider=meter_provider)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            server.script({"type": "fail", "status": 429, "retry_after": 0.01, "times": 1})
            await now(sdk.ask(client))
            async for _ in each(await now(sdk.stream(client))):
                pass
            server.script({"type": "fail", "status": 400, "times": 1})
            with pytest.raises(Exception, match="400"):
                await now(sdk.ask(client))

    sdk.run(main())
    scheduling.settled(3)
    findings = check(Registry.load(ROOT), scheduling.spans(), exported(reader.get_metrics_data()))
    meter_provider.shutdown()
    assert findings.violations == []
    assert findings.seen >= {
        "span loco.acquire",
        "span loco.call",
        "span loco.operation",
        "event loco.throttle",
        "metric loco.acquire.requests",
        "metric loco.hold.duration",
        "metric loco.throttles",
        "metric loco.tokens",
        "metric loco.active",
        "metric gen_ai.client.operation.duration",
        "metric gen_ai.client.operation.time_to_first_chunk",
        "metric gen_ai.client.token.usage",
    }
