"""HTTP/1.1 over asyncio: requests, responses, and an immediate notice when the client disconnects."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

_HEAD_LIMIT = 1 << 20


@dataclass(frozen=True)
class Request:
    """One request, read completely."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    """Names are in lower case."""
    content: bytes

    def json(self) -> Any:
        """Return the body, an empty mapping if it is not JSON."""
        try:
            return json.loads(self.content or b"{}")
        except ValueError:
            return {}


class Response:
    """Writes one response to a connection."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.on_disconnect: Callable[[], None] | None = None
        """Called synchronously when the client closes the connection, before any later request is read."""

    async def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole response."""
        self._writer.write(_format_head(status, {**headers, "content-length": str(len(body))}) + body)
        await self._writer.drain()

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head of a chunked response."""
        self._writer.write(_format_head(status, {**headers, "transfer-encoding": "chunked"}))
        await self._writer.drain()

    async def write(self, chunk: bytes) -> None:
        """Send one chunk."""
        self._writer.write(_format_chunk(chunk))
        await self._writer.drain()

    async def finish(self, last: bytes = b"") -> None:
        """Send the last chunk and the end of the body in one write."""
        self._writer.write((_format_chunk(last) if last else b"") + b"0\r\n\r\n")
        await self._writer.drain()

    async def disconnect(self) -> None:
        """Close the connection after what has been written, without ending the body."""
        self._writer.close()


Handler = Callable[[Request, Response], Awaitable[None]]


class Connection(asyncio.StreamReaderProtocol):
    """Serves the requests of one client, one after the other."""

    def __init__(self, handler: Handler, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(asyncio.StreamReader(limit=_HEAD_LIMIT, loop=loop), self._serve, loop)
        self._handler = handler
        self._response: Response | None = None
        self._task: asyncio.Task[None] | None = None

    def eof_received(self) -> bool:
        """Report a disconnect in the middle of a response."""
        self._report_disconnect()
        super().eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Report a disconnect in the middle of a response."""
        self._report_disconnect()
        super().connection_lost(exc)

    def _report_disconnect(self) -> None:
        response, task = self._response, self._task
        self._response = self._task = None
        if response is not None and response.on_disconnect is not None:
            response.on_disconnect()
        if task is not None:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing() and (request := await _read_request(reader, writer)) is not None:
                self._response = Response(writer)
                self._task = task = asyncio.ensure_future(self._handle(request, self._response))
                await asyncio.wait([task])
                self._response = self._task = None
                if task.cancelled():
                    break
                task.result()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # The client has gone, or the server ends.
            pass
        finally:
            writer.close()

    async def _handle(self, request: Request, response: Response) -> None:
        await self._handler(request, response)


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    line, *fields = head.decode("latin-1").split("\r\n")[:-2]
    method, target, _ = line.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        content = await _read_chunks(reader)
    else:
        content = await reader.readexactly(int(headers.get("content-length", "0")))
    url = urlsplit(target)
    return Request(method, url.path, url.query, headers, content)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    content = b""
    while size := int((await reader.readline()).split(b";")[0], 16):
        content += (await reader.readexactly(size + 2))[:-2]
    while (await reader.readline()).strip():
        pass
    return content


def _format_head(status: int, headers: Mapping[str, str]) -> bytes:
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _format_chunk(chunk: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(chunk), chunk)
