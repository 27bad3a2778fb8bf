"""The runtime of Amazon Bedrock Agents: InvokeAgent."""

import base64
import re
from urllib.parse import unquote

from .answers import Answer, Operation, Settings, answer_words
from .bedrock_api import BedrockApi
from .eventstream import CONTENT_TYPE, encode_event
from .http1 import Request

_PATH = re.compile(r"/agents/(?P<agent>[^/]+)/agentAliases/[^/]+/sessions/(?P<session>[^/]+)/text$")


class BedrockAgentsApi:
    """Serves `/agents/AGENT/agentAliases/ALIAS/sessions/SESSION/text`. The model of an operation is the agent."""

    name = "bedrock_agents"

    def __init__(self) -> None:
        self.refuse = BedrockApi().refuse
        self.refuse_in_stream = BedrockApi().refuse_in_stream

    def parse(self, request: Request) -> Operation | None:
        """Return the operation of a request, or None if it belongs to another API."""
        found = _PATH.search(request.path)
        return None if found is None else Operation("InvokeAgent", unquote(found["agent"]), streamed=True)

    def answer(self, request: Request, operation: Operation, settings: Settings) -> Answer:
        """Return a stream of the parts of an answer."""
        found = _PATH.search(request.path)
        assert found is not None
        headers = {
            "content-type": CONTENT_TYPE,
            "x-amzn-bedrock-agent-content-type": "application/json",
            "x-amz-bedrock-agent-session-id": unquote(found["session"]),
        }
        parts = [
            encode_event("chunk", {"bytes": base64.b64encode(word.encode()).decode()})
            for word in answer_words(settings)
        ]
        return Answer(tuple(parts), headers, streamed=True)
