"""What the messages of a child process `claude` mean, and how much each turn took.

The charge and the tokens by model of a `ResultMessage` are sums since the child process started, so those of the
previous one are subtracted. After `/clear`, a `ConversationResetMessage`, they start at 0 again.
"""

from typing import Any, NamedTuple

from loco_otel.patching.turns import TurnEnd

_TURN_MESSAGES = frozenset({"AssistantMessage", "StreamEvent"})
_FINISH_REASONS = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_call"}
_MODEL_FIELDS = ("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheCreationInputTokens", "webSearchRequests")
_USAGE_FIELDS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


class TurnFailedError(Exception):
    """The child process reports that a turn failed. It is recorded, and never raised.

    Attributes:
        status: the HTTP status of the request that failed; None if no request did.

    """

    def __init__(self, reason: str, status: int | None) -> None:
        super().__init__(reason)
        self.status = status


class TurnFigures(NamedTuple):
    """What one turn took, over all its requests."""

    input_tokens: int
    """Those read from or written to a cache included."""
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    web_searches: int
    usd: float | None
    """The charge that the child process computes; None if it reports none."""
    model: str | None
    """The one with the most tokens."""
    stop_reason: str | None


_Totals = dict[str, tuple[int, ...]]


class ClaudeMessages:
    """Reads the messages of one child process."""

    def __init__(self) -> None:
        self._totals: _Totals = {}
        self._usd = 0.0

    def belongs_to_turn(self, message: Any) -> bool:
        """Return whether a message comes from a model."""
        return type(message).__name__ in _TURN_MESSAGES

    def read_end(self, message: Any) -> TurnEnd | None:
        """Return the figures and the error of a `ResultMessage`; None for other messages."""
        name = type(message).__name__
        if name == "ConversationResetMessage":
            self._totals, self._usd = {}, 0.0
        if name != "ResultMessage":
            return None
        error = None
        if message.is_error:
            error = TurnFailedError(message.subtype, getattr(message, "api_error_status", None))
        return TurnEnd(self._subtract_totals(message), error)

    def _subtract_totals(self, message: Any) -> TurnFigures | None:
        """Return what was added since the last result; None for a turn without a request."""
        usd, reason = self._subtract_charge(message.total_cost_usd), message.stop_reason
        by_model = getattr(message, "model_usage", None)
        if by_model:
            totals = {
                model: tuple([usage.get(name) or 0 for name in _MODEL_FIELDS]) for model, usage in by_model.items()
            }
            added = {model: _subtract(counts, self._totals.get(model)) for model, counts in totals.items()}
            self._totals = totals
            model = max(added, key=lambda each: sum(added[each]))
            counts = tuple(map(sum, zip(*added.values(), strict=True)))
        else:
            # Of this turn alone.
            usage, model = message.usage or {}, None
            counts = (*[usage.get(name) or 0 for name in _USAGE_FIELDS], 0)
        plain, output, read, written, searches = counts
        if not (any(counts) or usd):
            return None
        return TurnFigures(
            plain + read + written, output, read, written, searches, usd, model, _FINISH_REASONS.get(reason, reason)
        )

    def _subtract_charge(self, total: float | None) -> float | None:
        if total is None:
            return None
        before, self._usd = self._usd, total
        # The total is a sum of floats: what is less than a micro-dollar is a rounding error.
        return round(total - before, 9) if total >= before else total


def _subtract(counts: tuple[int, ...], before: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the differences; the counts if they have started at 0 again."""
    if before is None or any(now < then for now, then in zip(counts, before, strict=True)):
        return counts
    return tuple([now - then for now, then in zip(counts, before, strict=True)])
