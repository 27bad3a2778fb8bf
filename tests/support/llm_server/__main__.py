"""Run the server: `python -m llm_server --port 0` prints the port it listens on. It ends when its input is closed."""

import argparse
import asyncio
import contextlib
import sys
import threading

from .server import serve


async def _run(port: int, *, until_input_closes: bool) -> None:
    server = asyncio.ensure_future(serve(port))
    if until_input_closes:
        # So that no process survives the test run that started it.
        loop = asyncio.get_running_loop()

        def watch_input() -> None:
            sys.stdin.buffer.read()
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(server.cancel)

        threading.Thread(target=watch_input, daemon=True).start()
    with contextlib.suppress(asyncio.CancelledError):
        await server


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="llm_server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port of the loopback interface; 0 selects a free one")
    parser.add_argument("--forever", action="store_true", help="do not end when the standard input is closed")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(options.port, until_input_closes=not options.forever))


if __name__ == "__main__":
    main()
