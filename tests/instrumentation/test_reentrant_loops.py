"""Calls in event loops that run inside a task of themselves, which `nest_asyncio` allows."""

import os
import subprocess
import sys

import server_fixtures
from llm_server import LlmServer
from patience import PATIENCE

PROGRAM = """
import asyncio, sys, time
import nest_asyncio
nest_asyncio.apply()
import loco_otel
loco_otel.install()
from openai import AsyncOpenAI

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}

async def main():
    async with AsyncOpenAI(base_url=sys.argv[1], api_key="none", max_retries=0) as client:
        ask = client.chat.completions.create
        opened = asyncio.Semaphore(0)

        async def read():
            async with await ask(stream=True, **CHAT) as stream:
                await anext(aiter(stream))
                opened.release()
                while opened._value < 2:
                    await asyncio.sleep(0)
                asyncio.get_running_loop().run_until_complete(ask(**CHAT))

        await ask(**CHAT)  # imports and connects
        started = time.monotonic()
        await asyncio.gather(read(), read())
        print(time.monotonic() - started)

asyncio.run(main())
"""

server = server_fixtures.server


def test_calls_in_nested_loops_share_at_once(server: LlmServer) -> None:
    """Two open streams at capacity 2, each with a nested call; they waited for idle leases, over 20 s."""
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, server.url("openai")],
        env={**os.environ, "LOCO_CAPACITY": "2"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert float(process.stdout) < 5.0
    assert len(server.requests()) == 5
