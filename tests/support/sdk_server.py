"""A real LLM server that the SDKs talk to over HTTP, and what it saw."""

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from anthropic import Anthropic, AsyncAnthropic
from openai import AsyncOpenAI, OpenAI
from patience import PATIENCE

LAG = 0.05
"""Seconds by which the server may note the end of a call later than the client that stopped at `[DONE]`.
Calls whose overlap is judged last several times as long."""

_TERMINATION = 3.0

KEY = "sk-planted-key-0123456789"
"""The API key of all clients; it must turn up nowhere."""

_ROOTS = {"openai": "/v1", "anthropic": "/anthropic"}


class Record(NamedTuple):
    """One HTTP request as the server saw it, times in seconds of its own clock."""

    path: str
    status: int
    started_at: float
    ended_at: float
    chunks: int
    body: Mapping[str, Any]


class LlmServer:
    """An `llmock serve` process on a free port of the loopback interface, with more options if given."""

    def __init__(self, output: Path, *options: str) -> None:
        self.port = free_port()
        llmock = Path(sys.executable).with_name("llmock")
        command = (llmock, "serve", "--port", str(self.port), "--log-level", "warning", *options)
        with output.open("wb") as file:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._process.terminate()
        try:
            self._process.wait(_TERMINATION)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def url(self, sdk: str) -> str:
        return f"http://127.0.0.1:{self.port}{_ROOTS[sdk]}"

    def openai(self, **options: Any) -> OpenAI:
        return OpenAI(api_key=KEY, base_url=self.url("openai"), **options)

    def async_openai(self, **options: Any) -> AsyncOpenAI:
        return AsyncOpenAI(api_key=KEY, base_url=self.url("openai"), **options)

    def anthropic(self, **options: Any) -> Anthropic:
        return Anthropic(api_key=KEY, base_url=self.url("anthropic"), **options)

    def async_anthropic(self, **options: Any) -> AsyncAnthropic:
        return AsyncAnthropic(api_key=KEY, base_url=self.url("anthropic"), **options)

    def script(self, *behaviors: Mapping[str, object]) -> None:
        """Queue what the next requests meet; `times` is how many of them, None for all."""
        self._admin("POST", "scenario", {"behaviors": behaviors})

    def requests(self) -> list[Record]:
        """Return the requests since the last reset. Waits up to two seconds for those still being answered."""
        return [
            Record(it["path"], it["status"], it["started_at"], it["ended_at"], it["chunks_sent"], it["body"] or {})
            for it in self._admin("GET", "requests")["requests"]
        ]

    def reset(self) -> None:
        """Forget the requests and what was scripted."""
        self._admin("POST", "reset")

    def _admin(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, f"/_llmock/{path}", None if body is None else json.dumps(body))
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        assert answer.status < 300, content
        return json.loads(content)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.reset()
            except ConnectionError:
                assert time.monotonic() < deadline, "llmock does not start"
            else:
                return
            try:
                code = self._process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"llmock ended at once with {code}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def peak(records: Iterable[Record]) -> int:
    """Return the most requests that the server had at the same time, not counting overlaps shorter than `LAG`."""
    edges = []
    for record in records:
        assert record.ended_at - record.started_at > 2 * LAG, "too short for its overlap to be judged"
        edges += [(record.started_at, 1), (record.ended_at - LAG, -1)]
    at_once = most = 0
    for _, change in sorted(edges):
        at_once += change
        most = max(most, at_once)
    return most


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
