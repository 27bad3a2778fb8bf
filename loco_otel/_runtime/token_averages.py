"""What calls really take: the tokens of each agent with each model, learnt from the calls that have ended.

    input  = estimated prompt * mean of real inputs / mean of their estimates
    output = mean of real outputs

Nothing is known of the first call of a pair: its input is the estimate, and its output nothing. The means are plain
over the first eight calls; after that each call moves them by an eighth of the way, so that half their weight is on
the last five calls and nine tenths on the last seventeen. An agent's answers differ from turn to turn: with a larger
share one odd answer would decide the next weight, with a smaller one an agent that turned to other work would be
judged by its old work for most of the new. The input has a ratio of means, not a mean of ratios: what a prompt of
five tokens shows must not decide about one of five thousand.
"""

from typing import NamedTuple, TypeAlias

from loco_otel.events import Usage

_SHARE = 1 / 8
_MAX_PAIRS = 1000
_MAX_TOKENS = 100_000_000
"""Of one call; a figure beyond is a fault of whoever counted, and so is an input of none."""

_Pair: TypeAlias = tuple[str, str | None]


class PredictedUsage(NamedTuple):
    """What a call will probably take."""

    input_tokens: int
    output_tokens: int
    learnt: bool
    """False where no call of this agent with this model has told its tokens yet: the output is unknown, not none."""


class _TokenMeans(NamedTuple):
    """Of one agent with one model."""

    calls: int
    estimated: float
    """Of the prompts, as they were estimated; never below 1."""
    read: float
    written: float


class TokenAverages:
    """Averages per agent and model, for all threads, without a lock.

    What is learnt replaces one tuple in a dictionary: whoever looks meanwhile sees the old or the new one. What calls
    teach that end in the very same moment may be lost, which an average can bear; so a finaliser may learn in the
    midst of it too. A forked child begins with what its parent knew.

    At most `most_pairs` are kept, in two halves. What is learnt goes into the young half; once that is full it becomes
    the old one, whose pairs, none of which was learnt of since, are forgotten.
    """

    __slots__ = ("_half", "_halves")

    def __init__(self, most_pairs: int = _MAX_PAIRS) -> None:
        self._half = max(1, most_pairs // 2)
        self._halves: tuple[dict[_Pair, _TokenMeans], dict[_Pair, _TokenMeans]] = ({}, {})

    def predict_usage(self, agent: str, model: str | None, prompt_tokens: int) -> PredictedUsage:
        """Return what a call will take whose prompt is estimated at so many tokens."""
        means = self._find_means((agent, model))
        if means is None:
            return PredictedUsage(prompt_tokens, 0, learnt=False)
        read = max(1, prompt_tokens) * (means.read / means.estimated)
        return PredictedUsage(round(min(read, _MAX_TOKENS)), round(means.written), learnt=True)

    def record_usage(self, agent: str, model: str | None, prompt_tokens: int, usage: Usage) -> bool:
        """Take note of what a call took; False where its figures are estimates, or can't be true."""
        read, written, estimated = usage[:3]
        if estimated or not (_is_count(read) and _is_count(written) and read):
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


def _is_count(tokens: object) -> bool:
    """Tell a number of tokens from what a server may say instead."""
    return type(tokens) is int and 0 <= tokens <= _MAX_TOKENS
