"""Replies of the server, in any pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loco_otel._engine.redis.resp import MISSING, ReplyBuffer, ServerError, pack_command


def test_a_command_states_its_lengths_in_bytes() -> None:
    assert pack_command("SET", "ä", 12) == b"*3\r\n$3\r\nSET\r\n$2\r\n\xc3\xa4\r\n$2\r\n12\r\n"


@given(pieces=st.lists(st.integers(1, 5), min_size=1))
def test_replies_are_complete_in_any_pieces(pieces: list[int]) -> None:
    data = "$3\r\nä1\r\n:42\r\n*2\r\n$1\r\nx\r\n$-1\r\n*-1\r\n+OK\r\n".encode()
    buffer, taken = ReplyBuffer(), []
    start = 0
    for size in (*pieces, len(data)):
        buffer.add_data(data[start : start + size])
        start += size
        while (reply := buffer.take_reply()) is not MISSING:
            taken.append(reply)
    assert taken == ["ä1", 42, ["x", None], None, "OK"]


def test_an_error_is_returned_with_its_kind() -> None:
    buffer = ReplyBuffer()
    buffer.add_data(b"-NOSCRIPT No matching script\r\n")
    error = buffer.take_reply()
    assert isinstance(error, ServerError)
    assert (error.kind, str(error)) == ("NOSCRIPT", "NOSCRIPT No matching script")


def test_a_moved_error_names_the_node() -> None:
    assert ServerError("MOVED 3999 10.0.0.1:6381").moved_to == ("10.0.0.1", 6381)
    assert ServerError("NOSCRIPT No matching script").moved_to is None


def test_an_unknown_reply_is_an_error() -> None:
    buffer = ReplyBuffer()
    buffer.add_data(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(ServerError, match="PROTOCOL unexpected reply HTTP"):
        buffer.take_reply()
