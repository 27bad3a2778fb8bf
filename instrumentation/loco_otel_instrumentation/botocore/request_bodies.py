"""The bodies of Converse and of InvokeModel under the names that the toolkit reads."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

_MEDIA_BLOCKS = ("image", "document", "video", "audio")

_INVOKE_FIELDS = {
    "prompt": ("prompt", "inputText", "message", "texts", "inputs"),
    "max_tokens": ("max_tokens", "max_completion_tokens", "max_tokens_to_sample", "max_gen_len", "maxTokens"),
    "temperature": ("temperature",),
    "top_p": ("top_p", "topP", "p"),
    "top_k": ("top_k", "topK", "k"),
    "n": ("n", "num_generations", "numResults"),
    "frequency_penalty": ("frequency_penalty",),
    "presence_penalty": ("presence_penalty",),
    "seed": ("seed",),
    "system": ("system", "preamble"),
    "tools": ("tools",),
    "functions": ("toolConfig",),
    "instructions": ("chat_history", "documents", "tool_results"),
}
"""Fields of InvokeModel's bodies, by the name that the toolkit reads. The first that is present counts."""
_CONFIG_FIELDS = {
    "max_tokens": ("maxTokens", "max_new_tokens", "maxTokenCount"),
    "temperature": ("temperature",),
    "top_p": ("topP", "top_p"),
    "top_k": ("topK", "top_k"),
}
"""Fields of `inferenceConfig` and `textGenerationConfig`."""


def neutralise_converse(params: Mapping[str, Any]) -> dict[str, object]:
    """Return the parameters of Converse."""
    neutral = _rename_fields(params.get("inferenceConfig") or {}, _CONFIG_FIELDS)
    neutral["messages"] = _neutralise_messages(params.get("messages"))
    if params.get("system"):
        neutral["system"] = _neutralise_blocks(params["system"])
    tools = (params.get("toolConfig") or {}).get("tools")
    if tools:
        neutral["tools"] = tools
    if params.get("outputConfig"):
        neutral["output_config"] = params["outputConfig"]
    tier = (params.get("serviceTier") or {}).get("type")
    if tier:
        neutral["service_tier"] = tier
    return neutral


def neutralise_invoke(params: Mapping[str, Any], model: str) -> tuple[str, dict[str, object]]:
    """Return `gen_ai.operation.name` of InvokeModel's parameters, and their body."""
    body = _parse_body(params.get("body"))
    neutral = _rename_fields(body, _INVOKE_FIELDS)
    config = body.get("inferenceConfig") or body.get("textGenerationConfig")
    if isinstance(config, Mapping):
        neutral |= _rename_fields(config, _CONFIG_FIELDS)
    if "messages" in body:
        neutral["messages"] = _neutralise_messages(body["messages"])
    if isinstance(params.get("serviceTier"), str):
        neutral["service_tier"] = params["serviceTier"]
    if "embed" in model:
        return "embeddings", neutral
    return "chat" if "messages" in body or "message" in body else "text_completion", neutral


def _rename_fields(body: Mapping[str, Any], names: Mapping[str, Iterable[str]]) -> dict[str, object]:
    found = {neutral: next((body[name] for name in given if name in body), None) for neutral, given in names.items()}
    return {name: value for name, value in found.items() if value is not None}


def _parse_body(body: Any) -> Mapping[str, Any]:
    """Parse the JSON of a body; empty for other formats. A file is read, and set back to where it was."""
    with suppress(Exception):  # botocore reports what it cannot send
        parsed = json.loads(_read_file(body) if hasattr(body, "read") else body)
        if isinstance(parsed, Mapping):
            return parsed
    return {}


def _read_file(file: Any) -> Any:
    """Return the content of a file, and set it back to where it was.

    Raises:
        OSError: it cannot be set back.

    """
    position = file.tell()
    file.seek(position)  # before anything is read that could not be read again
    try:
        return file.read()
    finally:
        file.seek(position)


def _neutralise_messages(messages: Any) -> Any:
    """Return messages whose content is in the blocks of Converse, as Anthropic's would be; others as they are."""
    if not isinstance(messages, list):
        return messages
    return [
        {**message, "content": _neutralise_blocks(message["content"])}
        if isinstance(message, Mapping) and isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


def _neutralise_blocks(blocks: Any) -> Any:
    return [_neutralise_block(block) for block in blocks] if isinstance(blocks, list) else blocks


def _neutralise_block(block: Any) -> Any:
    """Return a block; one of text, and one of another format than Converse's, is returned as it is."""
    if not isinstance(block, Mapping) or "text" in block or "type" in block:
        return block
    for kind in _MEDIA_BLOCKS:
        if kind in block:
            source = (block[kind] or {}).get("source") or {}
            return {"text": source["text"]} if "text" in source else {"type": kind}
    if "toolUse" in block:
        return {"name": block["toolUse"].get("name"), "input": block["toolUse"].get("input")}
    if "toolResult" in block:
        return {"content": _neutralise_blocks(block["toolResult"].get("content"))}
    return {"input": block["json"]} if "json" in block else block
