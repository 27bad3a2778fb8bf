"""Readers of agents that return, or raise, what a test gives them."""

import pytest

from loco_otel._runtime import agent_readers


class FakeReader:
    """Returns one answer, or raises it."""

    def __init__(self, name: str, rank: int, answer: object) -> None:
        self.name, self.rank, self.answer = name, rank, answer
        self.reads = 0

    def read_identity(self) -> agent_readers.PartialIdentity | None:
        self.reads += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value] # nonsense is the point


def add_readers(monkeypatch: pytest.MonkeyPatch, *answers: object) -> list[FakeReader]:
    """Register a reader for each answer, in this rank, for the length of a test; none has failed yet."""
    monkeypatch.setattr(agent_readers, "readers", ())
    monkeypatch.setattr(agent_readers, "faults", {})
    readers = [FakeReader(f"reader{rank}", rank, answer) for rank, answer in enumerate(answers)]
    for reader in reversed(readers):
        agent_readers.add_reader(reader)
    return readers
