"""The toolkit for SDK authors: wrappers that schedule, and what an SDK's folder has to supply.

Adding an SDK is one folder: an adapter that translates, a table of targets, and an instrumentor that names both. The
sync and the async wrapper are written here, once.
"""

from loco_otel._telemetry.foreign_instrumentors import is_live_tracer
from loco_otel.patching import attempt_wrappers, generator_wrappers, iterator_body, stainless, wrappers
from loco_otel.patching.adapter import Adapter, CallDescription, ExtendedRequest, UsageMeter, as_mapping
from loco_otel.patching.address import parse_address
from loco_otel.patching.arguments import NamedArguments
from loco_otel.patching.instrumentor import LocoInstrumentor
from loco_otel.patching.refusal import Refusal
from loco_otel.patching.target import Target

__all__ = [
    "Adapter",
    "CallDescription",
    "ExtendedRequest",
    "LocoInstrumentor",
    "NamedArguments",
    "Refusal",
    "Target",
    "UsageMeter",
    "as_mapping",
    "attempt_wrappers",
    "generator_wrappers",
    "is_live_tracer",
    "iterator_body",
    "parse_address",
    "stainless",
    "wrappers",
]
