"""Starts the server process and controls it. All that a test uses."""

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from patience import PATIENCE

_ROOTS = {
    "openai": "/v1",
    "groq": "/groq",
    "mistral": "/mistral",
    "huggingface": "/huggingface",
    "azure": "/azure",
    "ollama": "/ollama",
    "cohere": "/cohere",
    "anthropic": "/anthropic",
    "gemini": "/gemini",
    "bedrock": "",
}
_TERMINATION = 3.0
_GRACE = 5.0

_PACKAGE = __name__.rpartition(".")[0]


class State(NamedTuple):
    """Counts since the last reset."""

    received: int
    """All requests, control requests excluded."""
    finished: int
    in_progress: int
    """Requests that a model works on now; held ones are among them, token counts are not."""
    held: int
    peak: int
    """The most requests in progress at the same time."""


class Record(NamedTuple):
    """One request as the server saw it. Times are of `time.monotonic()`, comparable with the test's own."""

    id: int
    api: str
    operation: str
    model: str
    streamed: bool
    generates: bool
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    """Some of the headers, in lower case; credentials are not among them."""
    body: Any
    started_at: float
    ended_at: float | None
    status: int | None
    chunks: int
    is_held: bool
    end: str | None
    """`complete`, `refused`, `broken` by the script, `disconnected` by the client; None while in progress."""


class LlmServer:
    """A server process on a free port of the loopback interface.

    Conditions (`**match`) of the scripting methods are `api` (the name of an API of the server), `operation`, `model`
    and `streamed`. Without any, a rule applies to all requests. Thread-safe.
    """

    def __init__(self, python: str = sys.executable) -> None:
        folder = Path(__file__).parents[_PACKAGE.count(".") + 1]
        environ = {**os.environ, "PYTHONPATH": str(folder)}
        command = [python, "-m", _PACKAGE, "--port", "0"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            raise RuntimeError(f"the LLM server ended at once with {self._process.returncode}; its error is above")
        self.port = int(line)

    def stop(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(_TERMINATION)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def url(self, api: str = "bedrock") -> str:
        """Return the base URL for an SDK: a name of `_ROOTS`."""
        return f"http://127.0.0.1:{self.port}{_ROOTS[api]}"

    # What has happened.

    def state(self) -> State:
        """Return the current counts."""
        return State(**self._post("state"))

    def peak(self) -> int:
        """Return the most requests that were in progress at the same time.

        A request counts until just before its last byte is sent, or until its client disconnects.
        """
        return self.state().peak

    def requests(self) -> list[Record]:
        """Return all requests since the last reset, in order of arrival."""
        return [Record(**record) for record in self._post("requests")["requests"]]

    def wait_for(self, *, timeout: float = PATIENCE, exact: bool = False, **counts: int) -> State:
        """Block until each given count (`in_progress`, `held`, `received`, `finished`) is reached, or equal if `exact`.

        Raises:
            TimeoutError: with the counts at that time.

        """
        return State(**self._post("wait", {"timeout": timeout, "exact": exact, **counts}, timeout=timeout + _GRACE))

    def reset(self) -> None:
        """Forget the requests and all that was scripted; held requests are let go."""
        self._post("reset")

    # What will happen.

    def configure(self, **settings: float) -> None:
        """Change the answers: `output_tokens`, `cached_tokens`, `reasoning_tokens`, `delay`, `chunk_delay`."""
        self._post("configure", settings)

    def hold(self, *, times: int | None = None, after_chunks: int | None = None, **match: Any) -> None:
        """Hold the next requests until `release`: before their response, or after some chunks of their stream."""
        self._post("hold", {"times": times, "after_chunks": after_chunks, "match": match})

    def release(self, count: int | None = None, **match: Any) -> None:
        """Let some of the held requests pass, oldest first; without a count all, and hold no more.

        A count above that of the held requests lets the next ones pass too, unless there are conditions.
        """
        self._post("release", {"count": count, "match": match})

    def throttle(
        self,
        times: int | None = 1,
        *,
        status: int = 429,
        kind: str | None = None,
        message: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        after_chunks: int | None = None,
        **match: Any,
    ) -> None:
        """Answer the next requests with an error, in the provider's format.

        Args:
            times: how many requests; None for all.
            status: the HTTP status; any error, not only 429.
            kind: the provider's code, such as `insufficient_quota`; by default the one of the status.
            message: the text for people.
            retry_after: seconds, sent as the provider does: a header, `RetryInfo` in Gemini's body.
            headers: additional headers.
            body: replaces the provider's error body.
            after_chunks: sends the error within the stream, after this number of chunks of a response with status
                200. A request that is not streamed then gets its answer.
            match: conditions.

        """
        values = {"kind": kind, "message": message, "retry_after": retry_after, "headers": headers, "body": body}
        refusal = {"status": status, **{name: value for name, value in values.items() if value is not None}}
        self._post("refuse", {"times": times, "after_chunks": after_chunks, "refusal": refusal, "match": match})

    def break_off(
        self, times: int | None = 1, *, after_chunks: int | None = None, how: str = "disconnect", **match: Any
    ) -> None:
        """Break the next responses: `disconnect`, `truncate` (a regular end, too early) or `malformed` (a bad chunk).

        Without `after_chunks` the connection is closed before any response.
        """
        self._post("break", {"times": times, "after_chunks": after_chunks, "how": how, "match": match})

    def _post(self, operation: str, body: Mapping[str, Any] | None = None, timeout: float = PATIENCE) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("POST", f"/control/{operation}", json.dumps(body or {}))
            answer = connection.getresponse()
            result: dict[str, Any] = json.load(answer)
        finally:
            connection.close()
        if answer.status == http.client.GATEWAY_TIMEOUT:
            raise TimeoutError(f"waited for {body}, there is {result}")
        if answer.status != http.client.OK:
            raise ValueError(f"{operation}: {result}")
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
