"""The inference spans that Mistral's SDK makes by itself.

Its hook `TracingHook` begins a span with each request. In mistralai 1.10 to 2.4 it does so whenever the program has a
tracer provider, in later versions if the program asks for it, by an argument of the client or by an environment
variable. One of the settings sends the spans to Mistral alone: then ours is the one that the program sees.
"""

import sys
from contextlib import suppress
from typing import Any

from opentelemetry import trace

from loco_otel.patching import is_live_tracer

HOOK = "TracingHook"
_SPAN = "_tracing_span"
"""The name of the span among the extensions of a request, since mistralai 2.5."""
_CONFIGURE = "configure_telemetry_for_hook"
"""The function that each request calls to read the settings, where they can be set. Idempotent."""


def find_span(request: Any) -> Any:
    """Return the span that the hook has begun for a request; None without one."""
    return (getattr(request, "extensions", None) or {}).get(_SPAN)


def makes_span(config: Any) -> bool:
    """Return whether the SDK makes an inference span that the program sees.

    Args:
        config: of a client.

    """
    hooks = getattr(getattr(config, "_hooks", None), "before_request_hooks", ())
    hook = next((each for each in hooks if type(each).__name__ == HOOK), None)
    if hook is None:
        return False
    configure = getattr(sys.modules.get(type(hook).__module__), _CONFIGURE, None)
    if configure is not None:
        with suppress(Exception):  # the SDK raises it
            configure(hook, config, respect_global_provider=True)
        if not hook._telemetry_use_global_provider:
            # A provider that the program gave to the client is the program's.
            return hook.tracer_provider is not None and hook.tracer_provider is not hook._auto_telemetry_provider
    return is_live_tracer(trace.get_tracer("mistralai"))
