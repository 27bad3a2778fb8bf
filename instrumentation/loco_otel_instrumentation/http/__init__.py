"""Calls that a program makes with httpx or httpx2 itself, without an SDK, to the hosts that a setting names."""

from loco_otel.patching import LocoInstrumentor, Target, event_stream, wrappers
from loco_otel.patching.arguments import SingleArgument
from loco_otel_instrumentation.http.adapter import HttpAdapter

__all__ = ["Httpx2Instrumentor", "HttpxInstrumentor"]

_REQUEST = SingleArgument("request", 0)


def _build_targets(package: str) -> tuple[Target, ...]:
    """Return the methods that each request of a client passes, once with its redirects and without other retries."""
    adapter = HttpAdapter(package)
    call = wrappers.wrap_call(adapter, _REQUEST, event_stream.follow_response)
    async_call = wrappers.wrap_async_call(adapter, _REQUEST, event_stream.follow_response)
    return (Target(package, "Client", "send", call), Target(package, "AsyncClient", "send", async_call))


class HttpxInstrumentor(LocoInstrumentor):
    """Schedules the calls that httpx sends to the hosts of the setting `http_hosts`; all other requests pass."""

    sdk = "httpx"
    requires = "httpx >= 0.25, < 1"
    needs_hosts = True

    def list_targets(self) -> tuple[Target, ...]:
        """Return the methods that all requests pass."""
        return _build_targets(self.sdk)


class Httpx2Instrumentor(LocoInstrumentor):
    """Schedules the calls that httpx2 sends to the hosts of the setting `http_hosts`; all other requests pass."""

    sdk = "httpx2"
    requires = "httpx2 >= 2.0.0, < 3"
    needs_hosts = True

    def list_targets(self) -> tuple[Target, ...]:
        """Return the methods that all requests pass."""
        return _build_targets(self.sdk)
