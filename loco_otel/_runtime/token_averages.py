"""Average token usage per agent and model, computed from ended calls.

    input  = estimated prompt * mean of actual inputs / mean of their estimates
    output = mean of actual outputs

Before the first call of a pair ends, its input is the estimate and its output 0. The means are arithmetic over the
first eight calls. After that each call has a share of an eighth (an exponential moving average): half of the weight is
on the last five calls, nine tenths on the last seventeen. The outputs of an agent vary from turn to turn: a larger
share would let one outlier determine the next weight, a smaller one would adapt too slowly when an agent changes its
work. The input uses a ratio of means, not a mean of ratios: a prompt of five tokens does not decide about one of five
thousand.
"""

from typing import NamedTuple, TypeAlias

from loco_otel.events import MAX_TOKENS, Usage

_SHARE = 1 / 8
_MAX_PAIRS = 1000

_Pair: TypeAlias = tuple[str, str | None]


class PredictedUsage(NamedTuple):
    """The predicted usage of a call."""

    input_tokens: int
    output_tokens: int
    learnt: bool
    """False before a call of this agent with this model has reported its usage: the output is unknown, not 0."""


class _TokenMeans(NamedTuple):
    """The means of one agent with one model."""

    calls: int
    estimated: float
    """Mean of the estimated prompts; at least 1."""
    read: float
    written: float


class TokenAverages:
    """Averages per agent and model. Thread-safe without a lock, and safe in finalizers.

    An update replaces one tuple in a dictionary, so a reader gets the old or the new one. Of two concurrent updates one
    may be lost, which is acceptable for an average. A forked child starts with the averages of its parent.

    Args:
        most_pairs: the most pairs that are kept. They are in two halves: updates go to the young half; when that is
            full, it becomes the old half and the previous old half is dropped.

    """

    __slots__ = ("_half", "_halves")

    def __init__(self, most_pairs: int = _MAX_PAIRS) -> None:
        self._half = max(1, most_pairs // 2)
        self._halves: tuple[dict[_Pair, _TokenMeans], dict[_Pair, _TokenMeans]] = ({}, {})

    def predict_usage(self, agent: str, model: str | None, prompt_tokens: int) -> PredictedUsage:
        """Return the predicted usage of a call with this estimate of its prompt."""
        means = self._find_means((agent, model))
        if means is None:
            return PredictedUsage(prompt_tokens, 0, learnt=False)
        read = max(1, prompt_tokens) * (means.read / means.estimated)
        return PredictedUsage(round(min(read, MAX_TOKENS)), round(means.written), learnt=True)

    def record_usage(self, agent: str, model: str | None, prompt_tokens: int, usage: Usage) -> bool:
        """Add the usage of an ended call; return False if its counts are estimates or implausible."""
        read, written, estimated = usage[:3]
        # Servers may send anything; an input of 0 is an error too.
        if estimated or type(read) is not int or type(written) is not int:
            return False
        if not (0 < read <= MAX_TOKENS and 0 <= written <= MAX_TOKENS):
            return False
        pair = (agent, model)
        before = self._find_means(pair)
        if before is None:
            means = _TokenMeans(1, max(1, prompt_tokens), read, written)
        else:
            calls = before.calls + 1
            share = max(_SHARE, 1 / calls)
            means = _TokenMeans(
                calls,
                before.estimated + share * (max(1, prompt_tokens) - before.estimated),
                before.read + share * (read - before.read),
                before.written + share * (written - before.written),
            )
        young, _ = self._halves
        young[pair] = means
        if len(young) >= self._half and self._halves[0] is young:
            self._halves = ({}, young)
        return True

    def _find_means(self, pair: _Pair) -> _TokenMeans | None:
        young, old = self._halves
        return young.get(pair) or old.get(pair)
