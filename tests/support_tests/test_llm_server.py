"""The server's own tests, without any SDK: what it counts, holds, refuses and frames."""

import http.client
import json
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llm_server import LlmServer
from llm_server.eventstream import encode_event
from patience import PATIENCE

CHAT = "/v1/chat/completions"
PROMPT = {"model": "m", "messages": [{"role": "user", "content": "tell me about the harbour"}]}
WORDS = 5


@pytest.fixture(scope="module")
def process() -> Iterator[LlmServer]:
    with LlmServer() as server:
        yield server


@pytest.fixture
def server(process: LlmServer) -> LlmServer:
    process.reset()
    return process


def post(server: LlmServer, path: str = CHAT, body: Any = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        connection.request("POST", path, json.dumps(PROMPT if body is None else body))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_usage_counts_words_of_prompt(server: LlmServer) -> None:
    server.configure(output_tokens=7, cached_tokens=2)
    usage = json.loads(post(server)[1])["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (WORDS, 7, WORDS + 7)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 2}


def test_hold_counts_requests_until_released(server: LlmServer) -> None:
    server.hold()
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(post, server) for _ in range(3)]
        assert server.wait_for(held=3).in_progress == 3
        server.release(2)
        assert server.wait_for(finished=2).held == 1
        server.release()
        assert {call.result()[0] for call in calls} == {200}
    assert server.state()[1:] == (3, 0, 0, 3)


def test_release_before_arrival_admits_as_many(server: LlmServer) -> None:
    server.hold()
    server.release(1)
    assert post(server)[0] == 200
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(post, server)
        server.wait_for(held=1)
        server.reset()
        assert call.result()[0] == 200
    assert server.state() == (0, 0, 0, 0, 0), "requests from before a reset do not count"


def test_hold_by_model_holds_no_other(server: LlmServer) -> None:
    server.hold(model="other")
    assert post(server)[0] == 200


def test_disconnect_of_held_stream_ends_request(server: LlmServer) -> None:
    server.hold(after_chunks=2)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.request("POST", CHAT, json.dumps({**PROMPT, "stream": True}))
    answer = connection.getresponse()
    assert answer.readline().startswith(b"data: ")
    server.wait_for(held=1)
    answer.close()
    connection.close()
    server.wait_for(finished=1)
    (record,) = server.requests()
    assert (record.end, record.status, record.chunks) == ("disconnected", 200, 2)


def test_token_counts_are_no_requests_in_progress(server: LlmServer) -> None:
    assert post(server, "/anthropic/v1/messages/count_tokens")[1] == b'{"input_tokens": 5}'
    assert server.peak() == 0


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (CHAT, b"rate_limit_exceeded"),
        ("/anthropic/v1/messages", b"rate_limit_error"),
        ("/gemini/v1beta/models/m:generateContent", b'"retryDelay": "0.5s"'),
        ("/model/m/converse", b"Too many"),
    ],
)
def test_throttle_answers_in_format_of_provider(path: str, expected: bytes, server: LlmServer) -> None:
    server.throttle(1, retry_after=0.5)
    status, body = post(server, path)
    assert status == 429
    assert expected in body
    assert post(server, path)[0] == 200
    assert [record.end for record in server.requests()] == ["refused", "complete"]


@pytest.mark.parametrize("streamed", [False, True])
def test_declared_function_is_called_until_answered(streamed: bool, server: LlmServer) -> None:
    tools = [{"type": "function", "function": {"name": "ask", "parameters": {}}}]
    _, called = post(server, body={**PROMPT, "tools": tools, "stream": streamed})
    assert b'"name": "ask"' in called
    assert b'"finish_reason": "tool_calls"' in called
    messages = [*PROMPT["messages"], {"role": "tool", "content": "calm"}]
    _, answered = post(server, body={"model": "m", "messages": messages, "tools": tools, "stream": streamed})
    assert b"tool_calls" not in answered
    assert b'"finish_reason": "stop"' in answered


def test_wait_that_times_out_raises(server: LlmServer) -> None:
    with pytest.raises(TimeoutError, match="'held': 0"):
        server.wait_for(held=1, timeout=0.01)


def test_misspelt_condition_raises(server: LlmServer) -> None:
    with pytest.raises(ValueError, match="modle"):
        server.hold(modle="m")


def test_eventstream_checksums() -> None:
    message = encode_event("chunk", {"bytes": "YQ=="})
    assert int.from_bytes(message[:4]) == len(message)
    assert int.from_bytes(message[8:12]) == zlib.crc32(message[:8])
    assert int.from_bytes(message[-4:]) == zlib.crc32(message[:-4])
