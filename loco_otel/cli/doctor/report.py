"""What was found, as plain values. Their field names are the keys of `loco-otel doctor --json`: see docs/doctor.md."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from loco_otel._config.settings import SettingRow

FORMAT = 1
"""Of the JSON object; a higher number when a key goes or changes its meaning."""


class Hook(NamedTuple):
    """One method that we wrap."""

    method: str
    in_place: bool


class ForeignInstrumentor(NamedTuple):
    """Somebody else's instrumentor of the same SDK."""

    name: str
    """As `OTEL_PYTHON_DISABLED_INSTRUMENTATIONS` calls it."""
    module: str
    distribution: str
    version: str
    fault: str = ""
    """Why it does nothing here; empty where it works."""


class WrappedMethod(NamedTuple):
    """One method of the SDK that others have wrapped too."""

    method: str
    by: tuple[str, ...]
    """The wrappers' modules, the outermost first; ours among them."""


class Sdk(NamedTuple):
    """One SDK."""

    sdk: str
    version: str | None
    """None where it is not installed."""
    supports: str
    """The versions that can be patched, as a requirement."""
    supported: bool = True
    """Whether its version is one of them; others are left alone."""
    fault: str = ""
    """Why it is not patched, though it should be; empty where it is."""
    off: str = ""
    """Which setting would have it patched; empty where none has to."""
    imported: bool = False
    """Whether it was imported and patched for this report. Otherwise its source was read."""
    hooks: tuple[Hook, ...] = ()
    not_covered: tuple[str, ...] = ()
    """What asks a model and is not scheduled."""
    instrumentors: tuple[ForeignInstrumentor, ...] = ()
    wrapped: tuple[WrappedMethod, ...] = ()
    inference_span: tuple[str, ...] = ()
    """Who makes it: `loco_otel`, others' modules, the SDK's own name. Of several, each makes one."""

    @property
    def is_patched(self) -> bool:
        """Whether its calls pass the scheduler."""
        return self.version is not None and not self.fault and not self.off


class AgentFramework(NamedTuple):
    """The reader of one installed agent framework."""

    framework: str
    module: str
    """The module whose import loads the reader."""
    tested: bool
    """Whether it was loaded and called for this report, or failed in this process before."""
    fault: str = ""
    """Why it reads no names; empty if no fault was found."""


class Exporter(NamedTuple):
    """One way out for telemetry."""

    signal: str
    exporter: str
    address: str | None
    """Host and port, never credentials; None where there are none."""
    works: bool | None
    """None where that cannot be found out by trying."""
    finding: str
    stops_launcher: bool = False
    """Whether `opentelemetry-instrument` fails over it before anything is patched."""


class WorkerProcesses(NamedTuple):
    """The processes among which a program may be divided."""

    servers: tuple[str, ...]
    """Installed packages that start several."""
    processes: int | None
    """How many; None if the environment does not define it."""
    origin: str
    """The variable that defines it."""
    calls_at_once: int | None
    """Of all of them together; None where either number is not known."""


class Report(NamedTuple):
    """Everything."""

    versions: dict[str, str | None]
    early: bool
    """Whether `opentelemetry-instrument` lets us patch before it loads any other instrumentor."""
    sdks: tuple[Sdk, ...]
    frameworks: tuple[AgentFramework, ...]
    exporters: tuple[Exporter, ...]
    workers: WorkerProcesses
    settings: tuple[SettingRow, ...]
    errors: tuple[str, ...]
    """Why calls would go unscheduled."""
    warnings: tuple[str, ...]
    """What may not be meant so."""
    verdict: str

    @property
    def has_no_errors(self) -> bool:
        """Whether the calls of the SDKs that can be patched would pass the scheduler."""
        return not self.errors

    def as_json(self) -> dict[str, Any]:
        """Return the same as an object for `json.dumps`."""
        sdks = [{**_convert_value(sdk), "patched": sdk.is_patched} for sdk in self.sdks]
        return {"format": FORMAT, "well": self.has_no_errors, **_convert_value(self), "sdks": sdks}


def _convert_value(value: Any) -> Any:
    """Turn tuples with names into mappings, and others into lists."""
    if hasattr(value, "_asdict"):
        return {key: _convert_value(item) for key, item in value._asdict().items()}
    return [_convert_value(item) for item in value] if isinstance(value, tuple) else value


def join_names(sdks: Iterable[Sdk]) -> str:
    """Name SDKs in one line."""
    return ", ".join(sdk.sdk for sdk in sdks)
