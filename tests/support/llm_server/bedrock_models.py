"""The bodies of InvokeModel, which each vendor of a model on Bedrock defines for itself."""

from collections.abc import Iterator
from typing import Any

from . import anthropic_api
from .answers import Usage


def find_prompt(body: Any) -> Any:
    """Return the parts of a request body that contain the prompt, whichever model it is for."""
    return [body.get(name) for name in ("system", "messages", "prompt", "inputText")]


def describe_answer(model: str, usage: Usage, words: list[str]) -> dict[str, Any]:
    """Return the response body of a model."""
    text, output_tokens = "".join(words), usage.billed_output_tokens
    if "titan-embed" in model:
        return {"embedding": [0.5, 0.5, 0.5], "inputTextTokenCount": usage.input_tokens}
    if "titan" in model:
        result = {"tokenCount": output_tokens, "outputText": text, "completionReason": "FINISH"}
        return {"inputTextTokenCount": usage.input_tokens, "results": [result]}
    if "nova" in model:
        message = {"role": "assistant", "content": [{"text": text}]}
        return {"output": {"message": message}, "stopReason": "end_turn", "usage": describe_nova_usage(usage)}
    if "llama" in model:
        return _describe_llama(text, usage.input_tokens, output_tokens, "stop")
    return anthropic_api.describe_message(model, usage, words)


def list_chunks(model: str, usage: Usage, words: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a model's stream. Bedrock adds its metrics, with the token counts, to the last one."""
    chunks = list(_list_model_chunks(model, usage, words))
    metrics = {
        "inputTokenCount": usage.uncached_tokens,
        "outputTokenCount": usage.billed_output_tokens,
        "invocationLatency": 2,
        "firstByteLatency": 1,
    }
    if usage.cached_tokens:
        metrics["cacheReadInputTokenCount"] = usage.cached_tokens
    chunks[-1]["amazon-bedrock-invocationMetrics"] = metrics
    yield from chunks


def _list_model_chunks(model: str, usage: Usage, words: list[str]) -> Iterator[dict[str, Any]]:
    last = len(words) - 1
    if "titan" in model:
        for index, word in enumerate(words):
            yield {
                "outputText": word,
                "index": index,
                "inputTextTokenCount": usage.input_tokens if index == 0 else None,
                "totalOutputTextTokenCount": usage.billed_output_tokens if index == last else None,
                "completionReason": "FINISH" if index == last else None,
            }
    elif "nova" in model:
        yield {"messageStart": {"role": "assistant"}}
        for word in words:
            yield {"contentBlockDelta": {"delta": {"text": word}, "contentBlockIndex": 0}}
        yield {"contentBlockStop": {"contentBlockIndex": 0}}
        yield {"messageStop": {"stopReason": "end_turn"}}
        yield {"metadata": {"usage": describe_nova_usage(usage), "metrics": {}, "trace": {}}}
    elif "llama" in model:
        for index, word in enumerate(words):
            prompt_tokens = usage.input_tokens if index == 0 else None
            yield _describe_llama(word, prompt_tokens, index + 1, "stop" if index == last else None)
    else:
        yield from anthropic_api.list_events(model, usage, words)


def describe_nova_usage(usage: Usage) -> dict[str, int]:
    """Return the usage in the form of Converse, which Nova's own bodies share but for the names of the cache."""
    return {
        "inputTokens": usage.uncached_tokens,
        "outputTokens": usage.billed_output_tokens,
        "totalTokens": usage.total_tokens,
        "cacheReadInputTokenCount": usage.cached_tokens,
        "cacheWriteInputTokenCount": 0,
    }


def _describe_llama(text: str, prompt_tokens: int | None, tokens: int, reason: str | None) -> dict[str, Any]:
    return {
        "generation": text,
        "prompt_token_count": prompt_tokens,
        "generation_token_count": tokens,
        "stop_reason": reason,
    }
