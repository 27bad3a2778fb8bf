"""The toolkit for SDK folders: the wrappers that schedule calls, and the interfaces that an SDK's folder implements.

An SDK's folder defines an adapter that translates, a table of targets, and an instrumentor that refers to both. The
sync and the async wrapper are defined here, once.

The names below are for all folders. A folder imports those modules that it needs, such as `stainless` or
`event_stream`, from here too: they are not imported with the others, so that a program pays for those of its SDKs.
"""

from loco_otel._telemetry.foreign_instrumentors import is_live_tracer
from loco_otel.patching.adapter import (
    Adapter,
    CallDescription,
    ExtendedRequest,
    UsageMeter,
    accept_no_model,
    as_mapping,
    get_field,
)
from loco_otel.patching.address import parse_address
from loco_otel.patching.agent_identity import (
    FrameworkReader,
    PartialIdentity,
    pop_identity,
    push_identity,
    record_reader_fault,
)
from loco_otel.patching.arguments import NamedArguments
from loco_otel.patching.call import Call
from loco_otel.patching.identity_hooks import FrameworkHooks, IdentityHooks, create_run_id
from loco_otel.patching.instrumentor import LocoInstrumentor
from loco_otel.patching.refusal import Refusal
from loco_otel.patching.target import Target
from loco_otel.patching.versions import is_installed

__all__ = [
    "Adapter",
    "Call",
    "CallDescription",
    "ExtendedRequest",
    "FrameworkHooks",
    "FrameworkReader",
    "IdentityHooks",
    "LocoInstrumentor",
    "NamedArguments",
    "PartialIdentity",
    "Refusal",
    "Target",
    "UsageMeter",
    "accept_no_model",
    "as_mapping",
    "create_run_id",
    "get_field",
    "is_installed",
    "is_live_tracer",
    "parse_address",
    "pop_identity",
    "push_identity",
    "record_reader_fault",
]
