"""A real server process that answers each request with what the request's own field `reply` contains.

A JSON object, or text, is a whole answer; a list is a stream of events. The fields `status` and `headers` are those of
the answer. It answers as an HTTP proxy for any host too.
"""

import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class EchoServer:
    """The server process, on a free port of the loopback interface."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's
        pass

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        reply = request["reply"]
        self.send_response(request.get("status", 200))
        for name, value in request.get("headers", {}).items():
            self.send_header(name, value)
        if isinstance(reply, list):
            content = "".join([_format_event(event) for event in reply]).encode()
            self.send_header("content-type", "text/event-stream")
        else:
            content = (reply if isinstance(reply, str) else json.dumps(reply)).encode()
            self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _format_event(event: Any) -> str:
    if isinstance(event, str):
        return f"data: {event}\n\n"
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n"


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        sys.stdout.write(f"{server.server_address[1]}\n")
        sys.stdout.flush()
        server.serve_forever()
