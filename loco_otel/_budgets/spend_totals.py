"""Totals of settled calls, by caller, session and model."""

from collections.abc import Iterable, Sequence

from loco_otel.money import ATTRIBUTION, Charge, Totals

_MAX_KEYS = 10_000
_OTHER = "other"

_Key = tuple[str | None, ...]
"""The values of `ATTRIBUTION`."""


class SpendTotals:
    """Sums per caller, workflow, session and model.

    At most ten thousand are distinguished. After that sessions become `other`; after as many again, everything except
    provider and model does.
    """

    def __init__(self) -> None:
        self._sums: dict[_Key, list[int]] = {}

    def add_charge(self, charge: Charge) -> None:
        """Add one call."""
        key: _Key = (
            charge.agent, charge.tenant, charge.team, charge.workflow, charge.session, charge.provider, charge.model,
        )  # fmt: skip
        sums = self._sums.get(key) or self._create_sums(key)
        sums[0] += 1
        sums[1] += charge.usd or 0
        sums[3] += charge.usd is None or charge.underpriced
        sums[2] += charge.weight
        sums[4] += charge.estimated
        sums[5] += charge.input_tokens
        sums[6] += charge.output_tokens

    def compute_totals(self, by: Sequence[str]) -> tuple[Totals, ...]:
        """Return the totals, grouped by fields of `ATTRIBUTION`, in descending order of USD."""
        return aggregate_rows(((key, sums) for key, sums in self._sums.items()), by)

    def _create_sums(self, key: _Key) -> list[int]:
        known = len(self._sums)
        if known >= _MAX_KEYS:
            agent, tenant, team, workflow, _, provider, model = key
            if known >= 2 * _MAX_KEYS:
                agent = tenant = team = workflow = _OTHER
            key = agent, tenant, team, workflow, _OTHER, provider, model
        return self._sums.setdefault(key, [0] * 7)


def aggregate_rows(rows: Iterable[tuple[Sequence[str | None], Sequence[int]]], by: Sequence[str]) -> tuple[Totals, ...]:
    """Return the totals of rows, each with the values of `ATTRIBUTION` and its sums, grouped by fields of it.

    Raises:
        ValueError: `by` has another field.

    """
    for name in by:
        if name not in ATTRIBUTION:
            raise ValueError(f"by must be of {', '.join(ATTRIBUTION)}, not {name!r}")
    places = [ATTRIBUTION.index(name) for name in by]
    found: dict[_Key, list[int]] = {}
    for key, sums in rows:
        total = found.setdefault(tuple([key[place] for place in places]), [0] * 7)
        for index, amount in enumerate(sums):
            total[index] += amount
    totals = [Totals(key, *sums) for key, sums in found.items()]
    return tuple(sorted(totals, key=lambda it: (-it.usd, -it.weight, tuple(map(str, it.by)))))
