"""What a process shows that schedules nothing, or whose children schedule on their own."""

import subprocess
import sys
from textwrap import dedent

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from semconv_check import exported

from loco_otel._telemetry import presence, record_active_sdk, record_inactive_sdk
from loco_otel._telemetry.pipeline import ProcessState, Telemetry
from loco_otel.events import InactiveReason
from loco_otel.snapshots import Snapshot


@pytest.fixture(autouse=True)
def no_sdks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_inactive", {})


def read_active(reader: InMemoryMetricReader) -> dict[tuple[object, ...], object]:
    metrics = {metric.name: metric for metric in exported(reader.get_metrics_data())}
    points = metrics["loco.active"].data.data_points
    return {tuple((point.attributes or {}).values()): getattr(point, "value", None) for point in points}


def test_unscheduled_sdk_is_shown_without_a_scheduler() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    record_inactive_sdk("openai", "1.2.3", InactiveReason.DISABLED, provider)
    assert read_active(reader) == {("openai", "1.2.3", "disabled"): 0}


def test_sdk_that_is_scheduled_after_all_is_shown_once() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    record_inactive_sdk("openai", "1.2.3", InactiveReason.PATCH_FAILED, provider)
    state = ProcessState(lambda: Snapshot(0.0, ()), lambda: [("openai", "1.2.3")])
    telemetry = Telemetry.from_providers(state, meter_provider=provider)
    record_active_sdk("openai")
    assert read_active(reader) == {("openai", "1.2.3"): 1}
    telemetry.close()


def test_unscheduled_sdk_needs_no_metrics() -> None:
    record_inactive_sdk("openai", "1.2.3", InactiveReason.DISABLED)
    assert presence.list_sdks(())[0].value == 0


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_running_children_are_counted_in_the_parent_alone() -> None:
    program = """
        import os, signal
        from loco_otel._fork import count_children

        print(count_children())
        pids = []
        for _ in range(3):
            ready, tell = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.write(tell, repr(count_children()).encode())
                signal.pause()
            print(os.read(ready, 100).decode())
            pids.append(pid)
        print(count_children())
        os.kill(pids[1], signal.SIGKILL)
        os.waitpid(pids[1], 0)
        print(count_children())
        for pid in (pids[0], pids[2]):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        print(count_children())
    """
    run = subprocess.run([sys.executable, "-c", dedent(program)], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["None", "None", "None", "None", "3", "2", "0"]
