"""What a test has scripted: which requests are held, refused or broken off, and the gate of those that are held."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .answers import Refusal
from .journal import Entry

Action = Literal["hold", "refuse", "break"]
Break = Literal["disconnect", "truncate", "malformed"]


@dataclass(frozen=True)
class Match:
    """Which requests a rule applies to; None matches all."""

    api: str | None = None
    model: str | None = None
    operation: str | None = None
    streamed: bool | None = None

    def matches(self, entry: Entry) -> bool:
        """Return whether a request satisfies all conditions."""
        pairs = (
            (self.api, entry.api),
            (self.model, entry.model),
            (self.operation, entry.operation),
            (self.streamed, entry.streamed),
        )
        return all(wanted is None or wanted == actual for wanted, actual in pairs)


@dataclass
class Rule:
    """An action for the next requests that match."""

    action: Action
    match: Match = field(default_factory=Match)
    times: int | None = None
    """How many requests; None for all."""
    after_chunks: int | None = None
    """Chunks of a stream that are sent before the action; None acts before the head of the response."""
    refusal: Refusal = field(default_factory=Refusal)
    how: Break = "disconnect"

    @classmethod
    def from_json(cls, action: Action, body: Mapping[str, Any]) -> "Rule":
        """Return the rule that a control request describes."""
        rest = {name: value for name, value in body.items() if name not in {"match", "refusal"}}
        return cls(action, Match(**body.get("match", {})), refusal=Refusal(**body.get("refusal", {})), **rest)


@dataclass(frozen=True)
class Plan:
    """What happens to one request: it may be held, and it may fail."""

    hold: Rule | None
    fault: Rule | None


@dataclass
class Script:
    """The rules in force, first match first."""

    rules: list[Rule] = field(default_factory=list)

    def take(self, entry: Entry) -> Plan:
        """Return the plan for a request and count it against its rules."""
        hold = self._take(("hold",), entry)
        return Plan(hold, self._take(("refuse", "break"), entry))

    def _take(self, actions: tuple[Action, ...], entry: Entry) -> Rule | None:
        for rule in self.rules:
            if rule.action not in actions or not rule.match.matches(entry):
                continue
            if rule.times is not None:
                rule.times -= 1
                if rule.times == 0:
                    self.rules.remove(rule)
            return rule
        return None


@dataclass
class Gate:
    """Holds requests until they are released, in order of arrival."""

    openings: int = 0
    """How often all was released. A request that arrived before the last time is not held any more."""
    _permits: int = 0
    _held: list[tuple[Entry, asyncio.Future[None]]] = field(default_factory=list)

    def enter(self, entry: Entry) -> asyncio.Future[None] | None:
        """Return what the request has to await. None if an earlier release has left a permit, which is used up."""
        if self._permits:
            self._permits -= 1
            return None
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held.append((entry, future))
        entry.is_held = True
        return future

    def leave(self, entry: Entry) -> None:
        """Forget a request, released or not."""
        entry.is_held = False
        self._held = [pair for pair in self._held if pair[0] is not entry]

    def release(self, count: int, match: Match) -> None:
        """Let requests pass. Without conditions, what exceeds the held requests counts for the next ones."""
        for entry, future in [pair for pair in self._held if match.matches(pair[0])][:count]:
            self.leave(entry)
            if not future.done():
                future.set_result(None)
                count -= 1
        if match == Match():
            self._permits += count

    def open(self) -> None:
        """Release all held requests and drop the permits."""
        self.openings += 1
        self.release(len(self._held), Match())
        self._permits = 0
