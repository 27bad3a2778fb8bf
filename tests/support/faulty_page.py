"""A metrics page that goes wrong in the ways of real ones, and comes right again."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from sdk_server import free_port

OTHER = "# TYPE http_requests counter\nhttp_requests_total 7\n"
"""Metrics of another program."""


def write_page(ticks: int = 3, waiting: int = 2, spent: float = 0.25) -> str:
    """Return the page of a program with one agent."""
    agent = '{loco_agent_id="analyst",loco_resource_name="llm_api"}'
    causes = 'loco_agent_id="analyst",loco_resource_name="llm_api"'
    return f"""\
# TYPE loco_info gauge
loco_info{{loco_resource_name="llm_api",loco_policy="load",loco_capacity_mode="fixed",loco_version="1"}} 1
# TYPE loco_resource_capacity gauge
loco_resource_capacity{{loco_resource_name="llm_api"}} 2
# TYPE loco_scheduler_ticks counter
loco_scheduler_ticks_total{{loco_resource_name="llm_api"}} {ticks}
# TYPE loco_requests_active gauge
loco_requests_active{agent} 2
# TYPE loco_requests_waiting gauge
loco_requests_waiting{agent} {waiting}
# TYPE loco_wait_time_seconds counter
loco_wait_time_seconds_total{{{causes},loco_wait_cause="slot",loco_blame_agent="crawler"}} 3
loco_wait_time_seconds_total{{{causes},loco_wait_cause="self"}} 1
# TYPE loco_spend_USD counter
loco_spend_USD_total{{loco_agent_id="analyst",gen_ai_provider_name="openai"}} {spent}
"""


class FaultyPage:
    """Serves a page on a port of its own; `mode` is what the next request meets.

    - `page`, `other`, `garbage`: answers with that text
    - `error`: answers 500
    - `hang`: takes the request and answers nothing until the mode changes
    - `drip`: sends a byte of the page now and then, for ever
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.mode = "page"
        self.page = write_page()
        self.requests = 0
        self._changed = threading.Event()
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/metrics"

    def switch(self, mode: str) -> None:
        """Change the mode, and end what the last one left open."""
        self.mode = mode
        changed, self._changed = self._changed, threading.Event()
        changed.set()

    def start(self) -> None:
        server = _Server(("127.0.0.1", self.port), self)
        self._server = server
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections."""
        self.switch(self.mode)
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests += 1
        changed = self._changed
        if self.mode == "hang":
            changed.wait()
            return
        texts = {"page": self.page, "drip": self.page, "other": OTHER, "garbage": "<html>"}
        content = texts.get(self.mode, "").encode()
        handler.send_response(500 if self.mode == "error" else 200)
        handler.end_headers()
        if self.mode != "drip":
            handler.wfile.write(content)
            return
        while not changed.wait(0.05):
            handler.wfile.write(b"#\n")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], owner: FaultyPage) -> None:
        super().__init__(address, _Handler)
        self.owner = owner

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Ignore that the reader has gone."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.owner.answer(self)

    def log_message(self, *_: object) -> None:
        pass
