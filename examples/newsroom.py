"""A newsroom of four agents that share one account: analyst, writer, critic, and a crawler far heavier than they are.

A plain program over the OpenAI and Anthropic SDKs, that knows of no scheduler. Threads and asyncio, whole answers and
streams, long prompts and short ones: whatever a program does, its calls are put in line from outside.

    LOCO_CAPACITY=2 opentelemetry-instrument python newsroom.py
"""

import asyncio
from contextlib import AbstractContextManager

from anthropic import Anthropic
from openai import AsyncOpenAI, OpenAI
from opentelemetry import trace
from opentelemetry.trace import Span

TOPICS = ("harbour", "budget", "night trains", "heat wave", "school meals", "wind farm")
PAGES = tuple(f"https://news.example/archive/{number}" for number in range(36))
PAGES_AT_ONCE = 6
PAGE_TEXT = "The council met on Tuesday and spoke about the harbour, its cost, and who is to pay for it. " * 60

tracer = trace.get_tracer("newsroom")


def agent(name: str) -> AbstractContextManager[Span]:
    """Run a body as an agent, with the span that agent frameworks make: its name is who the calls are from."""
    attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": name}
    return tracer.start_as_current_span(f"invoke_agent {name}", attributes=attributes)


def analyst() -> str:
    """Answer one question after another: a thread, whole answers from OpenAI."""
    client = OpenAI()
    with agent("analyst"):
        for topic in TOPICS:
            client.chat.completions.create(
                model="gpt-4.1",
                messages=[{"role": "user", "content": f"What should our readers know about: {topic}?"}],
            )
    return f"analyst: {len(TOPICS)} briefs"


def writer() -> str:
    """Write one story after another: a thread, streams from Anthropic."""
    client = Anthropic()
    with agent("writer"):
        for topic in TOPICS:
            with client.messages.stream(
                model="claude-sonnet-5",
                max_tokens=400,
                messages=[{"role": "user", "content": f"Write three sentences about: {topic}."}],
            ) as stream:
                stream.get_final_text()
    return f"writer: {len(TOPICS)} stories"


async def critic() -> str:
    """Read and object: a task, streams from OpenAI, one of them broken off after the first words."""
    client = AsyncOpenAI()
    with agent("critic"):
        for topic in TOPICS:
            stream = await client.chat.completions.create(
                model="gpt-4.1-mini",
                messages=[{"role": "user", "content": f"What is wrong with this headline? {topic} explained"}],
                stream=True,
            )
            async with stream:
                async for _ in stream:
                    if topic == TOPICS[-1]:
                        break
    return f"critic: {len(TOPICS)} reviews"


async def crawler() -> str:
    """Sum up a whole archive: tasks side by side, each with a long prompt, through OpenAI's Responses API."""
    client = AsyncOpenAI()
    todo = iter(PAGES)

    async def work() -> None:
        for page in todo:
            await client.responses.create(model="gpt-4.1", input=f"Sum up {page}:\n{PAGE_TEXT}")

    with agent("crawler"):
        await asyncio.gather(*(work() for _ in range(PAGES_AT_ONCE)))
    return f"crawler: {len(PAGES)} pages"


async def main() -> None:
    """Let them all work at the same time, and say when each is done."""
    work = (asyncio.to_thread(analyst), asyncio.to_thread(writer), critic(), crawler())
    for done in asyncio.as_completed(work):
        print(await done)


if __name__ == "__main__":
    asyncio.run(main())
