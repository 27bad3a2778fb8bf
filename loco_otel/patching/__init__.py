"""The toolkit for SDK authors: wrappers that schedule, and what an SDK's folder has to supply.

Adding an SDK is one folder: an adapter that translates, a table of targets, and an instrumentor that names both. The
sync and the async wrapper are written here, once.
"""

from loco_otel._telemetry.foreign_instrumentors import is_live_tracer
from loco_otel.patching import stainless
from loco_otel.patching.adapter import Adapter, CallDescription, ExtendedRequest, UsageMeter, as_mapping, get_field
from loco_otel.patching.agent_identity import (
    FrameworkReader,
    PartialIdentity,
    pop_identity,
    push_identity,
    record_reader_fault,
)
from loco_otel.patching.instrumentor import LocoInstrumentor
from loco_otel.patching.target import Target

__all__ = [
    "Adapter",
    "CallDescription",
    "ExtendedRequest",
    "FrameworkReader",
    "LocoInstrumentor",
    "PartialIdentity",
    "Target",
    "UsageMeter",
    "as_mapping",
    "get_field",
    "is_live_tracer",
    "pop_identity",
    "push_identity",
    "record_reader_fault",
    "stainless",
]
