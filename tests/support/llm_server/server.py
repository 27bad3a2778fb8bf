"""The server process: answers requests by the script, and records them."""

import asyncio
from collections.abc import Sequence

from .answers import Answer, Api, Operation, Settings
from .anthropic_api import AnthropicApi
from .bedrock_agents_api import BedrockAgentsApi
from .bedrock_api import BedrockApi
from .cohere_api import CohereApi
from .control import PREFIX, handle_control
from .gemini_api import GeminiApi
from .http1 import Connection, Request, Response
from .interactions_api import InteractionsApi
from .journal import Entry, Journal
from .mistral_api import ConversationsApi
from .ollama_api import OllamaApi
from .openai_api import OpenAiApi
from .script import Gate, Plan, Rule, Script

_APIS: Sequence[Api] = (
    OpenAiApi("groq", "/groq/", "groq"),
    ConversationsApi(),
    OllamaApi(),
    CohereApi(),
    OpenAiApi("huggingface", "/huggingface/"),
    OpenAiApi("mistral", "/mistral/", "always"),
    OpenAiApi("azure", "/azure/", "always"),
    OpenAiApi("openai"),
    AnthropicApi(),
    InteractionsApi(),
    GeminiApi(),
    BedrockApi(),
    BedrockAgentsApi(),
)


class Server:
    """The state of the process, and the handler of its requests."""

    def __init__(self) -> None:
        self.journal = Journal()
        self.script = Script()
        self.gate = Gate()
        self.settings = Settings()

    def reset(self) -> None:
        """Restore the initial state. Held requests are let go, and no request received before counts any more."""
        self.script = Script()
        self.settings = Settings()
        self.journal.reset()
        self.gate.open()

    async def handle(self, request: Request, response: Response) -> None:
        """Answer one request."""
        if request.path.startswith(PREFIX):
            await handle_control(self, request, response)
            return
        for api in _APIS:
            operation = api.parse(request)
            if operation is not None:
                await self._serve(api, operation, request, response)
                return
        await response.send(404, {"content-type": "application/json"}, b'{"error": {"message": "no such path"}}')

    async def _serve(self, api: Api, operation: Operation, request: Request, response: Response) -> None:
        entry = self.journal.begin(api.name, operation, request)
        response.on_disconnect = lambda: self.journal.finish(entry, "disconnected")
        exchange = _Exchange(self, api, operation, entry, response)
        try:
            await exchange.run(self.script.take(entry), request)
        finally:
            self.journal.finish(entry, "disconnected")


class _Exchange:
    """One request that is being answered."""

    def __init__(self, server: Server, api: Api, operation: Operation, entry: Entry, response: Response) -> None:
        self._server = server
        self._api = api
        self._operation = operation
        self._entry = entry
        self._response = response
        self._openings = server.gate.openings

    async def run(self, plan: Plan, request: Request) -> None:
        """Send what the plan contains."""
        if plan.hold is not None and plan.hold.after_chunks is None:
            await self._hold()
        settings = self._server.settings
        if settings.delay:
            await asyncio.sleep(settings.delay)
        fault = plan.fault
        if fault is not None and fault.action == "break" and fault.after_chunks is None:
            await self._break("broken")
        elif fault is not None and fault.action == "refuse" and fault.after_chunks is None:
            await self._send_whole(self._api.refuse(self._operation, fault.refusal), "refused")
        else:
            answer = self._api.answer(request, self._operation, settings)
            if answer.streamed:
                await self._send_stream(answer, plan.hold, fault)
            else:
                await self._send_whole(answer, "complete")

    async def _send_whole(self, answer: Answer, end: str) -> None:
        self._entry.status = answer.status
        self._entry.chunks = 1
        # Before the last byte: the client's next request may follow it at once.
        self._server.journal.finish(self._entry, end)
        await self._response.send(answer.status, answer.headers, b"".join(answer.chunks))

    async def _send_stream(self, answer: Answer, hold: Rule | None, fault: Rule | None) -> None:
        self._entry.status = answer.status
        await self._response.start(answer.status, answer.headers)
        last = len(answer.chunks) - 1
        for index, chunk in enumerate(answer.chunks):
            if index and self._server.settings.chunk_delay:
                await asyncio.sleep(self._server.settings.chunk_delay)
            if hold is not None and hold.after_chunks == index:
                await self._hold()
            if fault is not None and fault.after_chunks == index:
                await self._send_fault(fault, chunk)
                return
            self._entry.chunks += 1
            if index < last:
                await self._response.write(chunk)
            else:
                self._server.journal.finish(self._entry, "complete")
                await self._response.finish(chunk)

    async def _send_fault(self, fault: Rule, chunk: bytes) -> None:
        if fault.action == "refuse":
            error = self._api.refuse_in_stream(self._operation, fault.refusal)
            self._server.journal.finish(self._entry, "refused")
            await self._response.finish(error)
        elif fault.how == "disconnect":
            await self._break("broken")
        else:
            self._server.journal.finish(self._entry, "broken")
            await self._response.finish(b"" if fault.how == "truncate" else _damage(chunk))

    async def _hold(self) -> None:
        gate = self._server.gate
        if gate.openings != self._openings:
            return
        released = gate.enter(self._entry)
        if released is None:
            return
        self._server.journal.notify()
        try:
            await released
        finally:
            gate.leave(self._entry)

    async def _break(self, end: str) -> None:
        self._server.journal.finish(self._entry, end)
        await self._response.disconnect()


def _damage(chunk: bytes) -> bytes:
    """Return a chunk with a broken payload: invalid JSON in an event, a wrong checksum in a Bedrock message."""
    return chunk.replace(b"{", b"{!", 1) if chunk.startswith((b"data", b"event")) else chunk[:-1] + b"\x00"


async def serve(port: int) -> None:
    """Serve on the loopback interface until cancelled. Prints the port once connections are accepted."""
    loop = asyncio.get_running_loop()
    state = Server()
    listener = await loop.create_server(lambda: Connection(state.handle, loop), "127.0.0.1", port, backlog=512)
    print(listener.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - how the port is found
    try:
        await asyncio.Event().wait()
    finally:
        # Not `serve_forever`, which at its end waits for clients that keep their connections.
        listener.close()
