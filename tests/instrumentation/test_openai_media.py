"""Images, sound and background responses of OpenAI's SDK: what is scheduled, with which usage, and what passes."""

from typing import Any

import openai
import pytest
from sdk_http import client_of, http_of
from sdk_scheduling import Scheduled

from loco_otel.events import Spent, Submitted

LIBRARY = http_of("openai")
IMAGE_USAGE = {
    "input_tokens": 9,
    "output_tokens": 200,
    "total_tokens": 209,
    "input_tokens_details": {"text_tokens": 9, "image_tokens": 0},
}
SPEECH = b"ID3" + bytes(100_000)


def answer(request: Any) -> Any:
    path = request.url.path
    if path.endswith("/audio/speech"):
        return LIBRARY.Response(200, content=SPEECH, headers={"content-type": "audio/mpeg"})
    bodies = {
        "/v1/images/generations": {"created": 1, "data": [{"b64_json": "AA=="}], "usage": IMAGE_USAGE},
        "/v1/images/edits": {"created": 1, "data": [{"b64_json": "AA=="}], "usage": IMAGE_USAGE},
        "/v1/audio/transcriptions": {
            "text": "fair winds",
            "usage": {"type": "tokens", "input_tokens": 30, "output_tokens": 3, "total_tokens": 33},
        },
        "/v1/moderations": {"id": "modr-0", "model": "omni-moderation-latest", "results": []},
        "/v1/responses": {"id": "resp_0", "object": "response", "status": "queued", "output": [], "model": "gpt-5"},
    }
    return LIBRARY.Response(200, json=bodies[path])


@pytest.fixture
def client() -> openai.OpenAI:
    return openai.OpenAI(api_key="fake", http_client=client_of(LIBRARY, answer))


CALLS = {
    "images.generate": (lambda it: it.images.generate(model="gpt-image-1", prompt="a harbour"), (9, 200)),
    "images.edit": (lambda it: it.images.edit(model="gpt-image-1", prompt="a harbour", image=b"png"), (9, 200)),
    "transcriptions": (lambda it: it.audio.transcriptions.create(model="gpt-4o-transcribe", file=b"wav"), (30, 3)),
}


@pytest.mark.parametrize("name", CALLS)
def test_media_call_is_scheduled_with_usage(name: str, client: openai.OpenAI, scheduled: Scheduled) -> None:
    call, figures = CALLS[name]
    scheduling = scheduled(capacity=1)
    call(client)
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    usage = spent.spending.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (*figures, False)
    assert [span.name.partition(" ")[0] for span in scheduling.spans("generate_content")] == ["generate_content"]


@pytest.mark.parametrize("streamed", [False, True])
def test_bytes_of_sound_are_no_tokens(streamed: bool, client: openai.OpenAI, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    request = {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": "fair winds"}
    if streamed:
        with client.audio.speech.with_streaming_response.create(**request) as response:
            assert response.read() == SPEECH
    else:
        assert client.audio.speech.create(**request).read() == SPEECH
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    usage = spent.spending.usage
    assert usage is not None
    assert usage.estimated
    assert usage.output_tokens == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda it: it.moderations.create(input="fair winds"),
        lambda it: it.responses.create(model="gpt-5", input="fair winds", background=True),
    ],
    ids=["moderations", "background"],
)
def test_call_without_an_answer_of_a_model_passes(call: Any, client: openai.OpenAI, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    call(client)
    assert not scheduling.seen.of(Submitted)
