"""Each field of the usage types of the installed SDKs is read, or listed here as not billed with its reason."""

import enum
import json
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from anthropic.types import Message, RawMessageDeltaEvent
from anthropic.types.beta import BetaMessage, BetaRawMessageDeltaEvent
from google.genai.types import GenerateContentResponse
from groq.types import CreateEmbeddingResponse as GroqEmbeddings
from groq.types.chat import ChatCompletion as GroqCompletion
from groq.types.chat import ChatCompletionChunk as GroqChunk
from loco_otel_instrumentation.anthropic.adapter import AnthropicAdapter
from loco_otel_instrumentation.google_genai.adapter import GoogleGenaiAdapter
from loco_otel_instrumentation.groq.adapter import GroqAdapter
from loco_otel_instrumentation.openai.adapter import OpenAIAdapter
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import CompactedResponse, Response
from pydantic import BaseModel

from loco_otel.events import Usage
from loco_otel.patching import UsageMeter

Reading = tuple[Usage, str | None]
Path = tuple[str | int, ...]

_SUM = "a sum of the others"
_SPLIT = "splits a figure that is read, at one price"
_TIME = "seconds, which are not billed"
_INCLUDED = "a part of the figures that are read"
_FREE = "free of charge"

NOT_BILLED: Mapping[str, str] = {
    "completion_tokens_details.accepted_prediction_tokens": _INCLUDED,
    "completion_tokens_details.rejected_prediction_tokens": _INCLUDED,
    "completion_tokens_details.text_tokens": _SPLIT,
    "prompt_tokens_details.text_tokens": _SPLIT,
    "input_tokens_details.cache_write_tokens_details.ttl_30m_tokens": "the ordinary life of a cache write",
    "total_tokens": _SUM,
    "image_gen.total_tokens": _SUM,
    "image_gen.input_tokens_details.image_tokens": _SPLIT,
    "image_gen.input_tokens_details.text_tokens": _SPLIT,
    "image_gen.output_tokens_details.image_tokens": _SPLIT,
    "image_gen.output_tokens_details.text_tokens": _SPLIT,
    "image_gen.cached_tokens": _INCLUDED,
    "image_gen.cached_tokens_details.cached_image_tokens": _INCLUDED,
    "image_gen.cached_tokens_details.cached_text_tokens": _INCLUDED,
    "cache_creation.ephemeral_5m_input_tokens": "the ordinary life of a cache write",
    "server_tool_use.web_fetch_requests": _FREE,
    "completion_time": _TIME,
    "prompt_time": _TIME,
    "queue_time": _TIME,
    "total_time": _TIME,
    "totalTokenCount": _SUM,
}
"""By the end of the field's path."""
NOT_BILLED_WITHIN: Mapping[str, str] = {
    "iterations.message": "a part of the answer's figures, unless of another model",
    "iterations.compaction.cache_creation.ephemeral_5m_input_tokens": "the ordinary life of a cache write",
    "iterations.advisor_message.cache_creation": _SPLIT,
    "iterations.fallback_message.cache_creation": _SPLIT,
    "usage_breakdown": "splits the usage by model",
}


def read_by(adapter: Any, *objects: Mapping[str, Any]) -> Reading:
    meter = UsageMeter()
    meter.model = "m"
    for each in objects:
        (adapter.read_chunk if "type" in each or "x_groq" in each else adapter.read_answer)(each, meter)
    return meter.compute_usage(0), meter.service_tier


def read_google(usage: Any) -> Reading:
    meter = UsageMeter()
    GoogleGenaiAdapter().read_answer(SimpleNamespace(body=json.dumps({"usageMetadata": usage})), meter)
    return meter.compute_usage(0), meter.service_tier


START = {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 1, "output_tokens": 1}}}
PLAIN = {"prompt_tokens": 10, "input_tokens": 10, "output_tokens": 10, "completion_tokens": 10}

ROOTS: list[tuple[type[BaseModel], str, Callable[[Any], Reading]]] = [
    *(
        (answer, "usage", lambda usage: read_by(OpenAIAdapter(), {"choices": [], "model": "m", "usage": usage}))
        for answer in (ChatCompletion, ChatCompletionChunk, Completion)
    ),
    *(
        (answer, "usage", lambda usage: read_by(OpenAIAdapter(), {"model": "m", "usage": usage}))
        for answer in (Response, CompactedResponse, CreateEmbeddingResponse)
    ),
    (Response, "tool_usage", lambda usage: read_by(OpenAIAdapter(), {"usage": PLAIN, "tool_usage": usage})),
    *(
        (answer, "usage", lambda usage: read_by(AnthropicAdapter(), {"model": "m", "usage": usage}))
        for answer in (Message, BetaMessage)
    ),
    *(
        (
            event,
            "usage",
            lambda usage: read_by(AnthropicAdapter(), START, {"type": "message_delta", "delta": {}, "usage": usage}),
        )
        for event in (RawMessageDeltaEvent, BetaRawMessageDeltaEvent)
    ),
    *(
        (answer, "usage", lambda usage: read_by(GroqAdapter(), {"choices": [], "usage": usage}))
        for answer in (GroqCompletion, GroqEmbeddings)
    ),
    (
        GroqCompletion,
        "usage_breakdown",
        lambda usage: read_by(GroqAdapter(), {"choices": [], "usage": PLAIN, "usage_breakdown": usage}),
    ),
    (GroqChunk, "usage", lambda usage: read_by(GroqAdapter(), {"choices": [], "x_groq": {"usage": usage}})),
    (GenerateContentResponse, "usage_metadata", read_google),
]


def list_types(annotation: Any) -> list[Any]:
    """Return the members of a union, without None; else the type itself."""
    if get_origin(annotation) is Annotated:
        return list_types(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for each in get_args(annotation) if each is not type(None) for kind in list_types(each)]
    return [annotation]


def build_sample(annotation: Any) -> Any:
    """Return a value of a type, with all of its fields. A list has one item of each type."""
    kinds = list_types(annotation)
    kind = kinds[0]
    if get_origin(kind) is list:
        return [build_sample(each) for each in list_types(get_args(kind)[0])]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {
            field.alias or name: build_sample(field.annotation)
            for name, field in kind.model_fields.items()
            if name not in ("model", "speed", "inference_geo", "service_tier", "traffic_type") or field.is_required()
        }
    if get_origin(kind) is Literal:
        return get_args(kind)[0] if len(kinds) == 1 else "another"
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "AUDIO"
    return {int: 10, float: 10.0, str: "another"}[kind]


def list_changes(annotation: Any, value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Return each field below a sample with other values that it may have."""
    kinds = list_types(annotation)
    kind = kinds[0]
    if get_origin(kind) is list:
        for index, each in enumerate(list_types(get_args(kind)[0])):
            yield from list_changes(each, value[index], (*path, index))
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            key = field.alias or name
            yield from list_changes(field.annotation, value.get(key), (*path, key))
    elif get_origin(kind) is Literal:
        choices = [choice for choice in get_args(kind) if choice != value]
        if choices and len(kinds) == 1:
            yield path, choices
        elif len(kinds) > 1:
            yield path, ["another-still", "m"]
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        yield path, [choice.value for choice in kind if choice.value != value]
    else:
        yield path, [{int: 17, float: 17.0, str: "us"}[kind]]


def name_path(sample: Any, path: Path) -> str:
    """Join a path by dots; an item of a list has the name of its type, if it has one."""
    names = []
    for step in path:
        sample = sample[step] if isinstance(step, int) else sample.get(step)
        if isinstance(step, str):
            names.append(step)
        elif "type" in sample:
            names.append(sample["type"])
    return ".".join(names)


def change(sample: Any, path: Path, value: Any) -> Any:
    changed = deepcopy(sample)
    place = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return changed


def find_reason(name: str) -> str | None:
    within = (reason for start, reason in NOT_BILLED_WITHIN.items() if f".{name}".find(f".{start}") >= 0)
    return next(within, None) or next(
        (reason for end, reason in NOT_BILLED.items() if f".{name}".endswith(f".{end}")), None
    )


@pytest.mark.parametrize(("answer", "field", "read"), ROOTS, ids=lambda it: getattr(it, "__name__", str(it)))
def test_each_field_is_read_or_listed(answer: type[BaseModel], field: str, read: Callable[[Any], Reading]) -> None:
    annotation = answer.model_fields[field].annotation
    sample = build_sample(annotation)
    before = read(sample)
    unread = set()
    for path, values in list_changes(annotation, sample):
        name = f"{field}.{name_path(sample, path)}"
        if all(read(change(sample, path, value)) == before for value in values) and find_reason(name) is None:
            unread.add(name)
    assert unread == set()
    assert before[0].input_tokens


def test_listed_fields_exist_and_are_not_read() -> None:
    seen = set()
    for answer, field, read in ROOTS:
        annotation = answer.model_fields[field].annotation
        sample = build_sample(annotation)
        before = read(sample)
        for path, values in list_changes(annotation, sample):
            name = f".{field}.{name_path(sample, path)}"
            for listed in NOT_BILLED:
                if name.endswith(f".{listed}") and all(read(change(sample, path, value)) == before for value in values):
                    seen.add(listed)
    assert set(NOT_BILLED) - seen == set()
