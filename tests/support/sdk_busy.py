"""A provider that allows a number of calls at a time: a process, which answers the others with 429.

Run as `python sdk_busy.py ALLOWED SECONDS RETRY_AFTER`: it prints its port. `GET /` returns what it has received.
"""

import json
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from patience import PATIENCE

ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "ahoy"}}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
}


class BusyServer:
    """The process, for the length of a `with` body."""

    def __init__(self, allowed: int, *, seconds: float, retry_after: float) -> None:
        command = [sys.executable, __file__, str(allowed), str(seconds), str(retry_after)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def seen(self) -> dict[str, int]:
        """Return how many calls it has served and refused, and how many at once at most."""
        with urllib.request.urlopen(self.url, timeout=PATIENCE) as answer:
            seen: dict[str, int] = json.load(answer)
        return seen

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Its standard input ends with this process too, whatever becomes of it.
        self._process.communicate(timeout=PATIENCE)


def serve(allowed: int, seconds: float, retry_after: float) -> None:
    """Serve until standard input ends."""
    lock = threading.Lock()
    seen = {"served": 0, "refused": 0, "busy": 0}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each answer takes 40 ms more, in two packets

        def do_GET(self) -> None:
            self._answer(200, seen)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            with lock:
                accepted = seen["busy"] < allowed
                seen["served" if accepted else "refused"] += 1
                seen["busy"] += accepted
            if not accepted:
                self._answer(429, {"error": {"message": "too many"}})
                return
            time.sleep(seconds)
            with lock:
                seen["busy"] -= 1
            self._answer(200, ANSWER)

        def _answer(self, status: int, body: Any) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            if status == 429:
                self.send_header("retry-after", str(retry_after))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)  # noqa: T201 - how it is found
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
