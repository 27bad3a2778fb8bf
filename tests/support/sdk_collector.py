"""The end of the line: takes OTLP over HTTP, and keeps it with the resource that it came from."""

import gzip
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Told(NamedTuple):
    """A span or a metric in OTLP's JSON, ids in base64."""

    resource: Mapping[str, str]
    scope: str
    item: Mapping[str, Any]


class Collector:
    """Takes whatever is posted."""

    def __init__(self) -> None:
        self._received: list[tuple[str, bytes]] = []
        received = self._received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append((self.path, gzip.decompress(body) if self.headers["Content-Encoding"] else body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever)

    @property
    def port(self) -> int:
        return self._http.server_port

    def everything(self) -> bytes:
        """Return all that was posted, as it is."""
        return b"".join(body for _, body in self._received)

    def spans(self) -> list[Told]:
        return self._told("/v1/traces", ExportTraceServiceRequest, "Spans")

    def metrics(self) -> list[Told]:
        return self._told("/v1/metrics", ExportMetricsServiceRequest, "Metrics")

    def _told(self, path: str, request: Any, what: str) -> list[Told]:
        return [
            Told(_strings(of.get("resource", {})), within["scope"]["name"], item)
            for posted, body in tuple(self._received)
            if posted == path
            for of in MessageToDict(request.FromString(body), use_integers_for_enums=True).get(f"resource{what}", ())
            for within in of.get(f"scope{what}", ())
            for item in within[what.lower()]
        ]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def _strings(resource: Mapping[str, Any]) -> dict[str, str]:
    return {item["key"]: item["value"].get("stringValue", "") for item in resource.get("attributes", ())}
