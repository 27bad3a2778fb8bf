"""The adapter for AWS Bedrock: models by Converse and InvokeModel, agents by InvokeAgent, each call under a slot."""

import json
import uuid
from collections.abc import Mapping
from typing import Any

from loco_otel.compat.adapters.client_calls import ClientCalls, is_async_client, read_total_tokens
from loco_otel.compat.adapters.frameworks import import_framework
from loco_otel.compat.adapters.leased_call import LeasedCall
from loco_otel.compat.adapters.model_weights import compute_weight
from loco_otel.compat.async_scheduler import AsyncLOCOScheduler
from loco_otel.patching import stream_proxy
from loco_otel.patching.adapter import UsageMeter
from loco_otel.patching.request_size import estimate_tokens

MODEL_WEIGHTS = {
    "anthropic.claude-sonnet-4-20250514-v1:0": 2.0,
    "anthropic.claude-opus-4-20250514-v1:0": 5.0,
    "anthropic.claude-haiku-4-5-20251001-v1:0": 1.0,
    "amazon.titan-text-express-v1": 1.0,
    "amazon.titan-text-premier-v1:0": 2.0,
    "meta.llama3-70b-instruct-v1:0": 3.0,
}
"""The weight of a call by model, for a prompt of up to 1000 tokens."""

DRAFT_ALIAS = "TSTALIASID"
"""Bedrock's alias of the working draft of an agent."""

_STREAM_FIELDS = ("completion", "stream", "body")


def estimate_weight(model_id: str) -> float:
    """Return the weight of a short call of a model.

    Example:
        >>> estimate_weight('eu.anthropic.claude-opus-4-20250514-v1:0')
        5.0

    """
    return compute_weight(MODEL_WEIGHTS, model_id)


class BedrockAdapter:
    """Schedules the calls of a client of boto3 or aiobotocore. boto3's calls run in threads. Several may run at once.

    Args:
        scheduler: the scheduler of the slots.
        client: a `bedrock-runtime` client for models, or a `bedrock-agent-runtime` client for agents. None creates
            boto3's `bedrock-runtime` client, with its usual configuration, at the first call.

    """

    def __init__(self, scheduler: AsyncLOCOScheduler, client: Any = None) -> None:
        self._client = client
        self._sessions: dict[str, str] = {}
        self._calls = ClientCalls(
            scheduler,
            "bedrock",
            count_tokens=read_total_tokens,
            read_chunk=_read_event,
            is_open=_has_stream,
            take_over=_follow_streams,
        )

    async def invoke(
        self,
        agent_id: str,
        *,
        model_id: str = "anthropic.claude-sonnet-4-20250514-v1:0",
        input_text: str = "",
        body: Mapping[str, Any] | str | bytes | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call a model or an agent of Bedrock under a slot, and return the client's response.

        A `bedrock-agent-runtime` client invokes the Bedrock agent `agentId`, by default `agent_id`, in its alias
        `agentAliasId`, by default the draft, and in the session `sessionId`, by default one for each scheduler agent
        of this adapter. A `bedrock-runtime` client sends `body` by InvokeModel, and without one `input_text` by
        Converse. A stream in the response holds the slot until it is read out, closed or dropped.

        Args:
            agent_id: the calling agent; registered if unknown.
            model_id: the model that answers.
            input_text: the user's message.
            body: the body for InvokeModel, in the format of the model's family.
            kwargs: further arguments of the client's method.

        Raises:
            ImportError: there is no client, and boto3 is not installed.
            AcquireRejectedError: the request was rejected, and nothing was sent.

        """
        client = self._get_client()
        service = client.meta.service_model.service_name
        arguments: dict[str, Any]
        if service == "bedrock-agent-runtime":
            method = client.invoke_agent
            arguments = {
                "agentId": agent_id,
                "agentAliasId": DRAFT_ALIAS,
                "sessionId": self._sessions.setdefault(agent_id, str(uuid.uuid4())),
                "inputText": input_text,
                **kwargs,
            }
            tokens = estimate_tokens({"prompt": input_text})
        elif body is not None:
            method = client.invoke_model
            sent = json.dumps(dict(body)) if isinstance(body, Mapping) else body
            arguments = {"modelId": model_id, "body": sent, **kwargs}
            tokens = estimate_tokens(body if isinstance(body, Mapping) else {"prompt": sent})
        else:
            method = client.converse
            content = [{"role": "user", "content": [{"text": input_text}]}]
            arguments = {"modelId": model_id, "messages": content, **kwargs}
            tokens = estimate_tokens(arguments)
        return await self._calls.run_call(
            agent_id,
            model_id,
            compute_weight(MODEL_WEIGHTS, model_id, tokens),
            method,
            arguments,
            is_async=is_async_client(client),
            prompt_tokens=tokens,
        )

    def _get_client(self) -> Any:
        if self._client is None:
            boto3 = import_framework("boto3", "boto3", "BedrockAdapter without a client")
            self._client = boto3.client("bedrock-runtime")
        return self._client


def _has_stream(answer: Any) -> bool:
    return isinstance(answer, dict) and any(_is_event_stream(answer.get(field)) for field in _STREAM_FIELDS)


def _is_event_stream(value: Any) -> bool:
    return hasattr(type(value), "get_initial_response")


def _follow_streams(call: LeasedCall, answer: dict[str, Any]) -> Any:
    """End a call with the stream of its response."""
    for field in _STREAM_FIELDS:
        stream = answer.get(field)
        if _is_event_stream(stream):
            answer[field] = stream_proxy.follow_stream(call, stream, stream._raw_stream.close)  # type: ignore[union-attr]
    return answer


def _read_event(event: Any, meter: UsageMeter) -> None:
    """Note what an event of InvokeAgent contains: it reports no usage, so that the tokens are estimated."""
    if isinstance(event, dict) and "chunk" in event:
        meter.characters += len(event["chunk"].get("bytes") or b"")
