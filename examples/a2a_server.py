"""Serve an agent over A2A, and call it with the client of a2a-sdk: at most two of its tasks run at once.

pip install 'loco-otel[a2a]'
python examples/a2a_server.py
"""

import asyncio
import socket
from typing import Any

import httpx
import uvicorn
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.types import Message, Part, Role, SendMessageRequest, TaskState

from loco_otel import AsyncLOCOScheduler, SharedResource
from loco_otel.a2a import A2ASchedulerAgent

scheduler = AsyncLOCOScheduler([], SharedResource("llm_api", capacity=2))


async def translate(text: str, _: Any) -> str:
    """Run a task. A program calls a model here."""
    await asyncio.sleep(0.05)
    return text.upper()


async def ask(client: Any, agent: str, text: str) -> str:
    """Send a message as an agent, and return the states and the answer of its task."""
    message = Message(message_id=text, role=Role.ROLE_USER, parts=[Part(text=text)])
    message.metadata.update({"agent_id": agent})
    states, answer = [], ""
    async for event in client.send_message(SendMessageRequest(message=message)):
        if event.HasField("task"):
            states.append(event.task.status.state)
        elif event.HasField("status_update"):
            states.append(event.status_update.status.state)
        elif event.HasField("artifact_update"):
            answer = event.artifact_update.artifact.parts[0].text
    names = [TaskState.Name(state).removeprefix("TASK_STATE_").lower() for state in states]
    return f"{agent}: {' '.join(names)} -> {answer}"


async def main() -> None:
    """Serve, ask four times at once, and print what the scheduler has counted."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        agent = A2ASchedulerAgent(scheduler, name="translator", description="Translates to upper case", url=url)
        server = uvicorn.Server(uvicorn.Config(agent.create_app(translate), log_level="warning", lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:  # noqa: ASYNC110 - uvicorn has no notification
            await asyncio.sleep(0.01)
        async with httpx.AsyncClient() as http:
            card = await A2ACardResolver(http, url).get_agent_card()
            client = ClientFactory(ClientConfig(streaming=True, httpx_client=http)).create(card)
            callers = [("writer", "one"), ("writer", "two"), ("editor", "three"), ("editor", "four")]
            for line in await asyncio.gather(*[ask(client, name, text) for name, text in callers]):
                print(line)
        server.should_exit = True
        await serving
    print(scheduler.metrics.completed_by_agent())


if __name__ == "__main__":
    asyncio.run(main())
