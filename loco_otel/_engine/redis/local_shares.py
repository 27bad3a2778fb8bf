"""What one process grants by itself while the engine is away: its part of the capacities and of the rates."""

from collections.abc import Mapping, Sequence

from loco_otel._core.slot_pool import Buckets, PoolShare
from loco_otel._core.token_bucket import TokenBucket
from loco_otel._engine.redis.batches import LineState, RateState
from loco_otel._engine.redis.modes import compute_local_limits
from loco_otel._engine.redis.statements import apply_line
from loco_otel._engine.shared_limits import SharedLimits


class LocalShares:
    """The shares of one process, from the loss of the engine until the sync after it."""

    def __init__(self) -> None:
        self.limits: Mapping[str, SharedLimits] = {}
        self.buckets: dict[str, Buckets] = {}

    def update(
        self, limits: Mapping[str, SharedLimits], lines: Mapping[str, LineState], processes: int, now: float
    ) -> None:
        """Compute the shares of limits. Buckets whose rates stay are kept, as a failed sync ends no absence."""
        self.limits = {
            name: compute_local_limits(apply_line(it, lines.get(name)), processes) for name, it in limits.items()
        }
        self.buckets = {name: self._make_buckets(name, lines.get(name), processes, now) for name in self.limits}

    def list_pools(self) -> dict[str, PoolShare]:
        """Return the shares as the core takes them. A limit that adapts and that was not learnt yet has its maximum."""
        return {
            name: PoolShare(
                it.capacity_max if it.capacity is None else it.capacity, self.buckets[name], it.capacity_max
            )
            for name, it in self.limits.items()
        }

    def clear(self) -> None:
        """Forget what was granted: the engine has it."""
        self.buckets = {}

    def list_spent(self, now: float) -> Sequence[tuple[str, float, float]]:
        """Return the requests and tokens of each resource that were granted here and are not refilled yet."""
        return [(name, _count_missing(one, now), _count_missing(two, now)) for name, (one, two) in self.buckets.items()]

    def _make_buckets(self, name: str, line: LineState | None, processes: int, now: float) -> Buckets:
        limits, (requests, tokens) = self.limits[name], self.buckets.get(name, (None, None))
        request_state, token_state = (None, None) if line is None else (line.requests, line.tokens)
        return (
            _make_bucket(limits.requests_per_minute, requests, request_state, processes, now),
            _make_bucket(limits.tokens_per_minute, tokens, token_state, processes, now),
        )


def _make_bucket(
    rate: float | None, known: TokenBucket | None, state: RateState | None, processes: int, now: float
) -> TokenBucket | None:
    """Return a bucket with the share of the level that the engine has reported last; full if it never has."""
    if rate is None or (known is not None and known.per_minute == rate):
        return None if rate is None else known
    return TokenBucket(rate, None if state is None else state.level / processes, now)


def _count_missing(bucket: TokenBucket | None, now: float) -> float:
    return 0.0 if bucket is None else bucket.compute_missing(now)
