"""Totals of settled calls, by caller, session and model."""

from collections.abc import Iterable, Sequence
from operator import add

from loco_otel.money import RUN_ATTRIBUTION, Charge, Totals

MAX_KEYS = 10_000
"""The keys from which on single runs and sessions are not distinguished."""
_OTHER = "other"

_Key = tuple[str | None, ...]
"""The values of `ATTRIBUTION` or `RUN_ATTRIBUTION`."""


class SpendTotals:
    """Sums per caller, workflow, session and model; and those of calls of runs, per run too.

    At most ten thousand of each are distinguished. After that runs and sessions become `other`; after as many again,
    everything except provider and model does.
    """

    def __init__(self) -> None:
        self._sums: dict[_Key, list[int]] = {}
        self._sums_by_run: dict[_Key, list[int]] = {}
        self.counts_runs = True
        """Whether those of calls of runs are kept per run too."""

    def add_charge(self, charge: Charge) -> None:
        """Add one call."""
        key: _Key = (
            charge.agent, charge.tenant, charge.team, charge.workflow, charge.session, charge.provider, charge.model,
        )  # fmt: skip
        sums = self._sums.get(key) or _create_sums(self._sums, key)
        _add_call(sums, charge)
        if charge.run is not None and self.counts_runs:
            key = (*key, charge.run)
            _add_call(self._sums_by_run.get(key) or _create_sums(self._sums_by_run, key), charge)

    def compute_totals(self, by: Sequence[str]) -> tuple[Totals, ...]:
        """Return the totals, grouped by fields, in descending order of USD.

        Those by run are of the calls of runs alone.
        """
        sums = self._sums_by_run if RUN_ATTRIBUTION[-1] in by else self._sums
        return aggregate_rows(sums.items(), by)


def _add_call(sums: list[int], charge: Charge) -> None:
    usd = charge.usd
    call = (
        1, usd or 0, charge.weight, usd is None or charge.underpriced, charge.estimated, charge.input_tokens,
        charge.output_tokens,
    )  # fmt: skip
    sums[:] = map(add, sums, call)


def _create_sums(by_key: dict[_Key, list[int]], key: _Key) -> list[int]:
    return by_key.setdefault(shorten_key(key, len(by_key)), [0] * 7)


def shorten_key(key: _Key, known: int) -> _Key:
    """Return the key under which a call is added where that many are known."""
    if known < MAX_KEYS:
        return key
    agent, tenant, team, workflow, _, provider, model, *run = key
    if known >= 2 * MAX_KEYS:
        agent = tenant = team = workflow = _OTHER
    return agent, tenant, team, workflow, _OTHER, provider, model, *[_OTHER for _ in run]


def aggregate_rows(rows: Iterable[tuple[Sequence[str | None], Sequence[int]]], by: Sequence[str]) -> tuple[Totals, ...]:
    """Return the totals of rows, each with the values of `RUN_ATTRIBUTION` or `ATTRIBUTION` and its sums.

    Raises:
        ValueError: `by` has another field.

    """
    for name in by:
        if name not in RUN_ATTRIBUTION:
            raise ValueError(f"by must be of {', '.join(RUN_ATTRIBUTION)}, not {name!r}")
    places = [RUN_ATTRIBUTION.index(name) for name in by]
    found: dict[_Key, list[int]] = {}
    for key, sums in rows:
        total = found.setdefault(tuple([key[place] for place in places]), [0] * 7)
        for index, amount in enumerate(sums):
            total[index] += amount
    totals = [Totals(key, *sums) for key, sums in found.items()]
    return tuple(sorted(totals, key=lambda it: (-it.usd, -it.weight, tuple(map(str, it.by)))))
