"""The scheduler as a library, for work that no SDK wraps: a model in the process, a database, a tool with few seats.

python library.py
"""

import asyncio
import sys
import threading
import time

import loco_otel
from loco_otel import AcquireTimeoutError, as_agent, slot

WORK = 0.1
"""Seconds that a piece of work takes here."""


def say(line: str) -> None:
    """Print a line in one piece, whatever other threads print meanwhile."""
    sys.stdout.write(f"{line}\n")


def embed(document: str) -> None:
    """Work in a thread: the body of `with` holds the slot."""
    with slot("indexer", weight=5) as held:
        time.sleep(WORK)
        say(f"indexer has embedded {document}, after {held.waited_ticks} others had ended")


async def answer(question: str) -> None:
    """Work in a task: `async with`, and the agent's name from the context, for all that is called from there."""
    with as_agent("chat", tenant="acme"):
        async with slot() as held:
            await asyncio.sleep(WORK)
            say(f"{held.agent} has answered {question!r}, after {held.waited_ticks} others had ended")


def peek() -> None:
    """Take a free slot or none: nobody waits with a timeout of 0."""
    try:
        with slot("dashboard", timeout=0):
            say("dashboard has looked")
    except AcquireTimeoutError as error:
        say(f"{error.agent} does without: no slot of {error.resource} is free")


async def main() -> None:
    """Let threads and tasks share two slots; who has waited longest is next, however much others have queued."""
    loco_otel.configure(capacity=2, optimize_for="latency")
    threads = [threading.Thread(target=embed, args=(f"document {number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    questions = [asyncio.create_task(answer(question)) for question in ("why?", "since when?")]
    await asyncio.sleep(0)

    (standing,) = loco_otel.snapshot().resources
    say(f"{standing.active} hold a slot, {standing.waiting} wait, policy {standing.policy}")
    peek()

    await asyncio.gather(*questions)
    for thread in threads:
        await asyncio.to_thread(thread.join)
    peek()


if __name__ == "__main__":
    asyncio.run(main())
