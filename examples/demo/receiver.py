"""A small OTLP receiver: keeps what loco-otel's spans say of each wait and what followed, and all spans in a file."""

import base64
import json
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Spending(NamedTuple):
    """What a call took."""

    usd: float
    input_tokens: int
    output_tokens: int
    estimated: bool
    """True where the provider did not say."""


class Wait(NamedTuple):
    """What one span tells: an acquire span of a wait, however short, an inference span of the call after it.

    Where the SDK makes the inference span by itself, the acquire span tells of the call too.
    """

    agent: str
    outcome: str | None
    """None in an inference span."""
    seconds: float | None
    """As above."""
    refusals: int
    """How often the provider pushed back."""
    spending: Spending | None
    """None where the span does not tell of a call that ended well."""


class Receiver:
    """Takes OTLP over HTTP on a free port of the loopback, in threads of its own, until `stop`.

    Args:
        file: for all spans, as OTLP's JSON, an export in each line: what a collector's file exporter writes.

    """

    def __init__(self, file: Path) -> None:
        self._waits: list[Wait] = []
        self._file = file
        self._file_lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def waits(self) -> list[Wait]:
        """Return all that has come in."""
        return self._waits.copy()

    def stop(self) -> None:
        """Take no more."""
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        waits, write = self._waits, self._write

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                try:
                    export = ExportTraceServiceRequest.FromString(body)
                    write(export)
                    waits.extend(read_waits(export))
                except DecodeError:
                    self.send_error(400)
                    return
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def _write(self, export: ExportTraceServiceRequest) -> None:
        line = json.dumps(_spell_ids(MessageToDict(export, use_integers_for_enums=True)))
        with self._file_lock, self._file.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def _spell_ids(value: Any) -> Any:
    """Return OTLP's JSON, which has ids in hexadecimal, of the protocol's, which has them in base64."""
    if isinstance(value, list):
        return [_spell_ids(it) for it in value]
    if isinstance(value, dict):
        return {
            name: base64.b64decode(it).hex() if name in {"traceId", "spanId", "parentSpanId"} else _spell_ids(it)
            for name, it in value.items()
        }
    return value


def read_waits(request: ExportTraceServiceRequest) -> Iterator[Wait]:
    """Find loco-otel's acquire and inference spans in an export."""
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            if scope.scope.name == "loco_otel":
                yield from (_read_wait(span) for span in scope.spans if not span.name.startswith("call "))


def _read_wait(span: Span) -> Wait:
    known = _values(span.attributes)
    return Wait(
        agent=known["loco.agent.id"],
        outcome=known.get("loco.outcome"),
        seconds=known.get("loco.wait.duration"),
        refusals=sum(event.name == "loco.throttle" for event in span.events),
        spending=None
        if "loco.spend.estimated" not in known
        else Spending(
            known.get("loco.spend.usd", 0.0),
            known.get("gen_ai.usage.input_tokens", known.get("loco.spend.input_tokens", 0)),
            known.get("gen_ai.usage.output_tokens", known.get("loco.spend.output_tokens", 0)),
            known["loco.spend.estimated"],
        ),
    )


def _values(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}
