"""What Groq's SDK has beside the conformance suite: raw answers."""

from collections.abc import Callable
from typing import Any

import groq
import pytest
import server_fixtures
from conformance import PROMPT, PROMPT_TOKENS
from llm_server import LlmServer
from sdk_scheduling import Scheduled

from loco_otel.events import Spent

CHAT: dict[str, Any] = {"model": "m", "messages": PROMPT}

server = server_fixtures.server


def parse_answer(client: groq.Groq) -> None:
    client.chat.completions.with_raw_response.create(**CHAT).parse()


def parse_stream(client: groq.Groq) -> None:
    list(client.chat.completions.with_raw_response.create(**CHAT, stream=True).parse())


def read_streaming_response(client: groq.Groq) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT) as raw:
        raw.parse()


@pytest.mark.parametrize("read", [parse_answer, parse_stream, read_streaming_response])
def test_raw_answer_is_scheduled_and_counted(
    read: Callable[[groq.Groq], None], server: LlmServer, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=1)
    with groq.Groq(api_key="fake", base_url=server.url("groq")) as client:
        read(client)
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage is not None
    assert spent.spending.usage.input_tokens == PROMPT_TOKENS
    assert not spent.spending.usage.estimated
