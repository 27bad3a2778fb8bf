"""The mock LLM server: the provider, and the witness of how many calls were under way at once."""

import json
import time
from collections.abc import Iterable
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import ProxyHandler, Request, build_opener

from child import Child, command, environment, free_port
from errors import DemoError

_LATENCY_MS = 300
_CHUNK_DELAY_MS = 25
_START_WITHIN = 120.0
_LATE = 0.1
"""Seconds by which the server may note the end of a call late: it does so after its last byte has gone out, or, where
the client broke off a stream, when it notices, and the client's next call may have come in by then. No call is shorter
than three times that."""

_open = build_opener(ProxyHandler({})).open


class Served(NamedTuple):
    """One request as the server saw it; times in seconds on the server's clock."""

    started_at: float
    ended_at: float
    status: int


class MockServer:
    """Speaks the protocols of OpenAI and Anthropic, with delays as a model has, on a free port of the loopback."""

    def __init__(self, directory: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        port = self.address.rpartition(":")[2]
        options = f"--port {port} --latency-ms {_LATENCY_MS} --stream-chunk-delay-ms {_CHUNK_DELAY_MS}"
        self._child = Child(
            [command("llmock"), "serve", "--host", "127.0.0.1", "--log-level", "warning", *options.split()],
            environment(),
            directory / "server.txt",
        )
        self._started_at = time.monotonic()
        self.stop = self._child.stop

    @property
    def ready(self) -> bool:
        """Whether it answers yet.

        Raises:
            DemoError: it has ended, or takes too long.

        """
        if self._child.status is not None or time.monotonic() > self._started_at + _START_WITHIN:
            raise DemoError(f"the mock LLM server did not start:\n{self._child.output().strip()}")
        try:
            self._ask("GET", "scenario")
        except DemoError:
            return False
        return True

    def refuse(self, *providers: str) -> None:
        """Answer the next two calls to each of these providers with 429 and a Retry-After."""
        # Two at most: the SDKs try three times, so no call can fail of it.
        behaviors = [
            {"type": "fail", "status": 429, "retry_after": 0.5, "times": 2, "match": {"provider": provider}}
            for provider in providers
        ]
        self._ask("POST", "scenario", {"behaviors": behaviors})

    def served(self) -> list[Served]:
        """Return all requests that have ended."""
        requests = self._ask("GET", "requests")["requests"]
        return [Served(request["started_at"], request["ended_at"], request["status"]) for request in requests]

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        try:
            with _open(Request(f"http://{self.address}/_llmock/{path}", data, method=method), timeout=5) as answer:
                return json.load(answer)
        except (OSError, HTTPException) as error:
            raise DemoError(f"the mock LLM server does not answer: {error}") from error


def peak(served: Iterable[Served]) -> int:
    """Return the most requests that were under way at once."""
    changes = []
    for request in served:
        changes += [(request.started_at, 1), (max(request.started_at, request.ended_at - _LATE), -1)]
    most = now = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most
