"""Where telemetry goes, as the SDK will read it from the environment, and whether somebody listens there.

Under `opentelemetry-instrument` exporters are set up before anything is patched. One that raises there, such as
Prometheus's whose port is taken, is one log line, and the program runs with nothing patched at all.
"""

from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined] # missing in typeshed

from opentelemetry.metrics import get_meter_provider

from loco_otel.cli.doctor import ports
from loco_otel.cli.doctor.report import Exporter

PROMETHEUS = "prometheus"

_SIGNALS = ("traces", "metrics", "logs")
_GRPC, _HTTP = "otlp_proto_grpc", "otlp_proto_http"
_PROTOCOLS = {"grpc": _GRPC, "http/protobuf": _HTTP}
_DEFAULT_ENDPOINTS = {_GRPC: "http://localhost:4317", _HTTP: "http://localhost:4318"}
_DEFAULT_PORTS = {"http": 80}
"""Of addresses that name none; TLS's for all others."""


def probe_exporters(environ: Mapping[str, str]) -> Iterator[Exporter]:
    """Try each exporter that the launcher would set up."""
    if path := environ.get("OTEL_CONFIG_FILE"):
        yield _probe_config_file(path)
        return
    for signal in _SIGNALS:
        # Without a choice, OpenTelemetry's distribution takes OTLP; but we send no logs.
        chosen = environ.get(f"OTEL_{signal.upper()}_EXPORTER", "none" if signal == "logs" else "otlp")
        if chosen and chosen.lower().strip() != "none":
            for name in chosen.split(","):
                yield _probe_exporter(signal, name.strip(), environ)
        elif signal != "logs":
            yield Exporter(signal, "none", None, None, f"no {signal} leave the process")


def _probe_config_file(path: str) -> Exporter:
    fault = ""
    if find_spec("opentelemetry.configuration") is None:
        fault = "opentelemetry-configuration, which reads it, is not installed"
    elif not Path(path).is_file():
        fault = "there is no such file"
    told = f"OTEL_CONFIG_FILE: {fault or 'the file says where to, and other OTEL_* variables are ignored'}"
    return Exporter("all", "file", None, False if fault else None, told, stops_launcher=bool(fault))


def _probe_exporter(signal: str, name: str, environ: Mapping[str, str]) -> Exporter:
    kind = name
    if name == "otlp":
        protocol = _get_first_set(
            environ, f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"
        )
        kind = _PROTOCOLS.get((protocol or "grpc").strip(), "")
        if not kind:
            told = f"the protocol is none of {', '.join(_PROTOCOLS)}"
            return Exporter(signal, name, None, False, told, stops_launcher=True)
    if not entry_points(group=f"opentelemetry_{signal}_exporter", name=kind):
        return Exporter(signal, name, None, False, "no such exporter is installed", stops_launcher=True)
    if kind == PROMETHEUS:
        return _probe_prometheus(signal, environ)
    if kind in _DEFAULT_ENDPOINTS:
        return _probe_otlp(signal, kind, environ)
    told = "written to the terminal" if kind == "console" else "not one that can be tried"
    return Exporter(signal, name, None, None, told)


def _probe_prometheus(signal: str, environ: Mapping[str, str]) -> Exporter:
    host = environ.get("OTEL_EXPORTER_PROMETHEUS_HOST", "localhost")
    port = environ.get("OTEL_EXPORTER_PROMETHEUS_PORT", "9464")
    try:
        fault = ports.find_listen_error(host, int(port))
    except ValueError:
        fault = "OTEL_EXPORTER_PROMETHEUS_PORT is no number"
    found = Exporter(signal, PROMETHEUS, f"{host}:{port}", not fault, fault or "the port is free")
    if fault and type(get_meter_provider()).__module__.startswith("opentelemetry.sdk."):
        # The doctor itself runs under the launcher, which did not fail.
        return found._replace(works=True, finding="served by this process")
    return found._replace(stops_launcher=bool(fault))


def _probe_otlp(signal: str, kind: str, environ: Mapping[str, str]) -> Exporter:
    endpoint = _get_first_set(environ, f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    found = Exporter(signal, kind, None, None, "its endpoint is no host and port, and was not tried")
    try:
        # gRPC takes `host:port` too. Path and credentials are nobody's business.
        endpoint = (endpoint or _DEFAULT_ENDPOINTS[kind]).strip()
        parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
        host, port = parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme, 443)
    except ValueError:
        return found
    if not host:
        return found
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    found = found._replace(address=shown, works=True, finding="reachable")
    if not (fault := ports.find_connect_error(host, port)):
        return found
    if _has_proxy(host, parts.scheme, environ):
        return found._replace(works=None, finding=f"not reachable except by the proxy, if at all: {fault}")
    return found._replace(works=False, finding=f"not reachable: {fault}")


def _has_proxy(host: str, scheme: str, environ: Mapping[str, str]) -> bool:
    names = [f"{kind}_proxy" for kind in ("grpc", scheme or "https", "all")]
    if not _get_first_set(environ, *names, *map(str.upper, names)):
        return False
    exceptions = _get_first_set(environ, "no_proxy", "NO_PROXY") or ""
    return not proxy_bypass_environment(host, {"no": exceptions})


def _get_first_set(environ: Mapping[str, str], *names: str) -> str | None:
    """Return the first variable that is set, and not to nothing."""
    return next((value for name in names if (value := environ.get(name))), None)
