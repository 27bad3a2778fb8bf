"""Servers that speak OpenAI's protocol: the base URL of each, and what it sends.

`test_compatible_hosts.py` calls each by OpenAI's SDK; `docs/coverage.md` lists them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import openai
from genai_prices import Usage as PricedUsage
from genai_prices import calc_price

from loco_otel.events import RateLimits, Usage
from loco_otel.money import BilledItem

Json = dict[str, Any]
TOKENS = {"prompt_tokens": 120, "completion_tokens": 30, "total_tokens": 150}
LIMITS = {
    "x-ratelimit-limit-requests": "100",
    "x-ratelimit-remaining-requests": "99",
    "x-ratelimit-limit-tokens": "6000",
    "x-ratelimit-remaining-tokens": "0",
}


@dataclass(frozen=True)
class Host:
    """A server that speaks OpenAI's protocol, and what it sends."""

    name: str
    url: str
    provider: str
    """As `gen_ai.provider.name` has it."""
    model: str
    usage: Json
    counted: Usage
    publisher: str | None = None
    """The provider whose published prices apply; None for `usd`."""
    usd: int | None = None
    """The charge in micro-USD."""
    answered: str | None = None
    """The model that the answer names, if it is another."""
    usage_chunk: str = "own"
    """Where a stream has its usage: in a chunk of its `own`, in the `last` one, in `each`, or in `x_groq`."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Those of a 429."""
    error: Any = None
    """The JSON of a 429."""
    limits: RateLimits | None = None
    retry_after: float | None = None
    make_client: Callable[..., openai.OpenAI] | None = None

    def __str__(self) -> str:
        return self.name

    def open_client(self) -> openai.OpenAI:
        """Return a client that tries once."""
        if self.make_client is not None:
            return self.make_client(azure_endpoint=self.url, api_key="fake", max_retries=0)
        return openai.OpenAI(base_url=self.url, api_key="fake", max_retries=0)

    def build_answer(self) -> Json:
        """Return a whole answer."""
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}
        return {**self._build_head("chat.completion"), "choices": [choice], "usage": self.usage}

    def build_stream(self) -> list[Any]:
        """Return the chunks of a streamed answer."""
        head = self._build_head("chat.completion.chunk")
        chunks: list[Json] = [
            {**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "hel"}}]},
            {**head, "choices": [{"index": 0, "delta": {"content": "lo"}}]},
            {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        ]
        if self.usage_chunk == "own":
            chunks.append({**head, "choices": [], "usage": self.usage})
        elif self.usage_chunk == "x_groq":
            chunks[-1]["x_groq"] = {"id": "r", "usage": self.usage}
        else:
            chunks[-1]["usage"] = self.usage
        if self.usage_chunk == "each":
            for count, chunk in enumerate(chunks[:-1], start=1):
                fewer = self.usage["completion_tokens"] - count
                total = self.usage["total_tokens"] - count
                chunk["usage"] = {**self.usage, "completion_tokens": fewer, "total_tokens": total}
        return [*chunks, "[DONE]"]

    def compute_price(self) -> int | None:
        """Return micro-USD, as the publisher's prices have it."""
        if self.publisher is None:
            return self.usd
        counted = PricedUsage(
            input_tokens=self.counted.input_tokens,
            output_tokens=self.counted.output_tokens,
            cache_read_tokens=self.counted.cache_read_tokens or 0,
        )
        model = self.answered or self.model
        return ceil(calc_price(counted, model, provider_id=self.publisher).total_price * 1_000_000)

    def _build_head(self, kind: str) -> Json:
        return {"id": "c", "object": kind, "created": 1, "model": self.answered or self.model}


def open_azure(**options: Any) -> openai.OpenAI:
    return openai.AzureOpenAI(api_version="2024-10-21", **options)


AZURE_USAGE = {
    **TOKENS,
    "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 64},
    "completion_tokens_details": {"audio_tokens": 0, "reasoning_tokens": 0},
}

HOSTS = [
    Host(
        "azure-deployment",
        "http://harbour.openai.azure.com",
        "azure.ai.openai",
        "our-deployment",
        AZURE_USAGE,
        Usage(120, 30, cache_read_tokens=64, reasoning_tokens=0),
        publisher="azure",
        answered="gpt-4o-2024-08-06",
        headers={**LIMITS, "retry-after": "6", "retry-after-ms": "5500"},
        limits=RateLimits(99, 0, None, None, 100, 6000),
        retry_after=5.5,
        make_client=open_azure,
    ),
    Host(
        "azure-v1",
        "http://harbour.openai.azure.com/openai/v1/",
        "azure.ai.openai",
        "gpt-4o",
        AZURE_USAGE,
        Usage(120, 30, cache_read_tokens=64, reasoning_tokens=0),
        publisher="azure",
        headers={**LIMITS, "x-ratelimit-reset-tokens": "12", "retry-after": "12"},
        limits=RateLimits(99, 0, None, 12.0, 100, 6000),
        retry_after=12.0,
    ),
    Host(
        "openrouter",
        "http://openrouter.ai/api/v1",
        "openrouter",
        "openai/gpt-4o",
        {
            **TOKENS,
            "cost": 0.00014,
            "is_byok": False,
            "cost_details": {"upstream_inference_cost": None},
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 10},
        },
        Usage(120, 30, cache_read_tokens=0, reasoning_tokens=10, items=(BilledItem("reported_usd", 140),)),
        usd=140,
        error={
            "error": {
                "message": "Provider returned error",
                "code": 429,
                "metadata": {
                    "provider_name": "Venice",
                    "retry_after_seconds": 17,
                    "headers": {"Retry-After": "17", "X-RateLimit-Limit": "16", "X-RateLimit-Remaining": "0"},
                },
            }
        },
        limits=RateLimits(0, None, None, None, 16, None),
        retry_after=17.0,
    ),
    Host(
        "deepseek",
        "http://api.deepseek.com",
        "deepseek",
        "deepseek-chat",
        {
            **TOKENS,
            "prompt_tokens_details": {"cached_tokens": 64},
            "prompt_cache_hit_tokens": 64,
            "prompt_cache_miss_tokens": 56,
        },
        Usage(120, 30, cache_read_tokens=64),
        publisher="deepseek",
        usage_chunk="last",
    ),
    Host(
        "xai",
        "http://api.x.ai/v1",
        "x_ai",
        "grok-4",
        {
            "prompt_tokens": 120,
            "completion_tokens": 30,
            "total_tokens": 350,
            "prompt_tokens_details": {"text_tokens": 120, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 64},
            "completion_tokens_details": {"reasoning_tokens": 200, "audio_tokens": 0},
            "num_sources_used": 0,
        },
        Usage(120, 230, cache_read_tokens=64, reasoning_tokens=200),
        publisher="x-ai",
        headers=LIMITS,
        limits=RateLimits(99, 0, None, None, 100, 6000),
    ),
    Host(
        "groq",
        "http://api.groq.com/openai/v1",
        "groq",
        "llama-3.3-70b-versatile",
        {**TOKENS, "queue_time": 0.018, "prompt_time": 0.002, "completion_time": 0.1, "total_time": 0.102},
        Usage(120, 30),
        publisher="groq",
        usage_chunk="x_groq",
        headers={
            **LIMITS,
            "x-ratelimit-reset-requests": "2m59.56s",
            "x-ratelimit-reset-tokens": "7.66s",
            "retry-after": "8",
        },
        limits=RateLimits(99, 0, 179.56, 7.66, 100, 6000),
        retry_after=8.0,
    ),
    Host(
        "together",
        "http://api.together.xyz/v1",
        "together",
        "meta-llama/Llama-3.3-70B-Instruct-Turbo",
        {**TOKENS, "cached_tokens": 0},
        Usage(120, 30, cache_read_tokens=0),
        publisher="together",
        usage_chunk="last",
        headers={
            "x-ratelimit-limit": "10",
            "x-ratelimit-remaining": "9",
            "x-ratelimit-reset": "1",
            "x-tokenlimit-limit": "3000",
            "x-tokenlimit-remaining": "0",
        },
        limits=RateLimits(9, 0, 1.0, 1.0, 10, 3000),
    ),
    Host(
        "fireworks",
        "http://api.fireworks.ai/inference/v1",
        "fireworks",
        "accounts/fireworks/models/deepseek-r1-0528",
        {**TOKENS, "prompt_tokens_details": {"cached_tokens": 0}},
        Usage(120, 30, cache_read_tokens=0),
        publisher="fireworks",
        usage_chunk="last",
        headers={
            "x-ratelimit-limit-requests": "100",
            "x-ratelimit-remaining-requests": "99",
            "x-ratelimit-limit-tokens-prompt": "60000",
            "x-ratelimit-remaining-tokens-prompt": "0",
            "x-ratelimit-limit-tokens-generated": "6000",
            "x-ratelimit-remaining-tokens-generated": "5000",
            "x-ratelimit-over-limit": "yes",
        },
        limits=RateLimits(99, 0, None, None, 100, 60000),
    ),
    Host(
        "mistral",
        "http://api.mistral.ai/v1",
        "mistral_ai",
        "mistral-large-latest",
        {**TOKENS, "prompt_tokens_details": {"cached_tokens": 64}, "num_cached_tokens": 64},
        Usage(120, 30, cache_read_tokens=64),
        publisher="mistral",
        usage_chunk="last",
        headers={
            "x-ratelimit-limit-req-minute": "60",
            "x-ratelimit-remaining-req-minute": "59",
            "x-ratelimit-limit-tokens-minute": "500000",
            "x-ratelimit-remaining-tokens-minute": "0",
        },
        limits=RateLimits(59, 0, None, None, 60, 500000),
    ),
    Host(
        "databricks",
        "http://adb-1.azuredatabricks.net/serving-endpoints",
        "databricks",
        "databricks-meta-llama-3-3-70b-instruct",
        TOKENS,
        Usage(120, 30),
        publisher="databricks",
        headers={"retry-after": "1"},
        retry_after=1.0,
    ),
    Host(
        "perplexity",
        "http://api.perplexity.ai",
        "perplexity",
        "sonar",
        {
            **TOKENS,
            "search_context_size": "low",
            "cost": {
                "input_tokens_cost": 0.00012,
                "output_tokens_cost": 3e-05,
                "request_cost": 0.005,
                "total_cost": 0.00515,
            },
        },
        Usage(120, 30, items=(BilledItem("reported_usd", 5150),)),
        usd=5150,
        usage_chunk="each",
    ),
    Host(
        "gemini",
        "http://generativelanguage.googleapis.com/v1beta/openai/",
        "gcp.gemini",
        "models/gemini-2.5-flash",
        {"prompt_tokens": 120, "completion_tokens": 30, "total_tokens": 350},
        Usage(120, 230, reasoning_tokens=200),
        publisher="google",
        answered="gemini-2.5-flash",
        usage_chunk="each",
        error=[
            {
                "error": {
                    "code": 429,
                    "status": "RESOURCE_EXHAUSTED",
                    "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "28.5s"}],
                }
            }
        ],
        retry_after=28.5,
    ),
    Host(
        "vllm",
        "http://vllm.internal:8000/v1",
        "vllm",
        "Qwen/Qwen3-8B",
        {**TOKENS, "prompt_tokens_details": None},
        Usage(120, 30),
    ),
    Host(
        "ollama",
        "http://ollama.internal:11434/v1",
        "ollama",
        "gpt-4o",
        TOKENS,
        Usage(120, 30),
        usd=0,
    ),
]
