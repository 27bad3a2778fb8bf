"""A proxy before a server that delays, cuts and drops."""

import asyncio
import threading
from contextlib import suppress


class TcpProxy:
    """Forwards connections to a port of this machine; its attributes may be changed at any time.

    Args:
        port: of the server.

    """

    def __init__(self, port: int) -> None:
        self._target = port
        self.delay = 0.0
        """Seconds by which each direction is delayed."""
        self.drops_replies = False
        """Whether what the server sends is lost, without an end of the connection."""
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Close all connections."""
        self._loop.call_soon_threadsafe(self._close_all)

    def close(self) -> None:
        """Stop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        server.close()
        self._close_all()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _close_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            target_reader, target = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, target}
        with suppress(asyncio.CancelledError):
            await asyncio.gather(self._pipe(reader, target), self._pipe(target_reader, writer, is_reply=True))

    async def _pipe(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool = False
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if not (is_reply and self.drops_replies):
                    self._loop.call_later(self.delay, self._forward, writer, data)
        writer.transport.abort()
        self._writers.discard(writer)

    @staticmethod
    def _forward(writer: asyncio.StreamWriter, data: bytes) -> None:
        if not writer.is_closing():
            writer.write(data)
