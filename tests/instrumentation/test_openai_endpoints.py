"""Decisions of OpenAI's SDK, and that each of its POST paths is scheduled, or known to ask no model or to pass."""

import asyncio
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import openai
import pytest
from loco_otel_instrumentation.openai import OpenAIInstrumentor
from loco_otel_instrumentation.openai.adapter import _ENDPOINTS
from sdk_http import client_of, http_of
from sdk_scheduling import Scheduled
from sdk_versions import PAIR

from loco_otel.events import Spent, Submitted, Usage

LIBRARY = http_of("openai")
REQUEST: dict[str, Any] = {
    "model": "gpt-6-luna",
    "input": "fair winds",
    "questions": [{"type": "predicate", "name": "calm", "question": "Is the sea calm?"}],
}
DECISION = {
    "model": "gpt-6-luna",
    "answers": [{"type": "predicate", "name": "calm", "probability": 0.9}],
    "usage": {
        "input_tokens": 30,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 33,
    },
}

NOT_COVERED = {
    "/agents": "beta.agents",
    "/batches": "batches",
    "/evals": "evals",
    "/fine_tuning": "fine_tuning",
    "/live": "live",
    "/realtime": "realtime.connect",
    "/threads/runs": "beta.threads.create_and_run",
    "/threads/{}/runs": "beta.threads.runs",
    "/videos": "videos",
}
"""The beginnings of paths that ask a model and pass, or manage what does, by their names in `not_covered`."""
ADMINISTRATION = ("/organization", "/projects")
NO_MODEL = {
    *("/assistants", "/assistants/{}", "/audio/voice_consents", "/audio/voice_consents/{}", "/audio/voices"),
    *("/chat/completions/{}", "/chatkit/sessions", "/chatkit/sessions/{}/cancel", "/containers"),
    *("/containers/{}/files", "/content_provenance_checks", "/conversations", "/conversations/{}"),
    *("/conversations/{}/items", "/files", "/moderations", "/responses/input_tokens", "/responses/{}/cancel"),
    *("/skills", "/skills/{}", "/skills/{}/versions", "/threads", "/threads/{}", "/threads/{}/messages"),
    *("/threads/{}/messages/{}", "/uploads", "/uploads/{}/cancel", "/uploads/{}/complete", "/uploads/{}/parts"),
    *("/vaults", "/vaults/{}", "/vaults/{}/credentials", "/vaults/{}/credentials/{}", "/vector_stores"),
    *("/vector_stores/{}", "/vector_stores/{}/file_batches", "/vector_stores/{}/file_batches/{}/cancel"),
    *("/vector_stores/{}/files", "/vector_stores/{}/files/{}", "/vector_stores/{}/search", "/webhook_endpoints"),
    *("/webhook_endpoints/{}", "/webhook_endpoints/{}/rotate_secret", "/webhook_endpoints/{}/test"),
}
POST = re.compile(r"\b_post\([^\"]*\"([^\"]+)\"")
LIST = re.compile(r"\b_get_api_list\([^\"]*\"([^\"]+)\"(.*?)\n        \)", re.DOTALL)


def find_post_paths() -> set[str]:
    """Return the paths of the SDK's POST requests, as its sources contain them, with `{}` for each id."""
    found: set[str] = set()
    sdk = Path(openai.__file__).parent
    for source in (*(sdk / "resources").rglob("*.py"), *(sdk / "lib").rglob("*.py")):
        text = source.read_text()
        posted = POST.findall(text)
        assert len(posted) == text.count("_post("), f"{source} has a path that is no literal"
        listed = [path for path, rest in LIST.findall(text) if 'method="post"' in rest]
        assert len(listed) == text.count('method="post"'), f"{source} has a path that is no literal"
        found.update(re.sub(r"{\w+}", "{}", path.partition("?")[0]) for path in (*posted, *listed))
    return found


def is_below(path: str, beginning: str) -> bool:
    return path == beginning or path.startswith(f"{beginning}/")


def test_each_post_path_is_known() -> None:
    found = find_post_paths()
    scheduled = {path for path in found if _ENDPOINTS._find_operation(path) is not None}
    assert not scheduled & NO_MODEL
    passing = (*NOT_COVERED, *ADMINISTRATION)
    unknown = {path for path in found - scheduled - NO_MODEL if not any(is_below(path, one) for one in passing)}
    assert unknown == set()
    assert {"/chat/completions", "/responses", "/embeddings"} <= scheduled
    assert PAIR or found >= NO_MODEL
    assert PAIR or all(any(is_below(path, one) for path in found) for one in passing)
    assert set(NOT_COVERED.values()) <= set(OpenAIInstrumentor.not_covered)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_decision_is_scheduled_with_usage(is_async: bool, scheduled: Scheduled) -> None:
    if find_spec("openai.resources.decisions") is None:
        assert PAIR, "the newest pair is to have all"
        pytest.skip("openai of this pair has no decisions")
    scheduling = scheduled(capacity=1)
    http: Any = client_of(LIBRARY, lambda _: LIBRARY.Response(200, json=DECISION), is_async=is_async)

    async def create() -> Any:
        async with openai.AsyncOpenAI(api_key="fake", http_client=http) as client:
            return await client.decisions.create(**REQUEST)

    if is_async:
        answer = asyncio.run(create())
    else:
        with openai.OpenAI(api_key="fake", http_client=http) as client:
            answer = client.decisions.create(**REQUEST)
    assert answer.answers[0].probability == 0.9
    assert len(scheduling.seen.of(Submitted)) == 1
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage == Usage(30, 3, False, 4, 2, 1)
    (span,) = scheduling.spans("chat ")
    assert (span.attributes or {})["gen_ai.request.model"] == "gpt-6-luna"
