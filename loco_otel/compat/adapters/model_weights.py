"""The weight of a call by its model.

    weight = tier(model) * max(1, tokens / 1000)

The tier is that of the adapter's table, which has loco-agent's values. A dated, regional or preview name has the tier
of its model. Other names have the tier that patched calls have, see `patching/dialects/model_tiers.py`.
"""

import re
from collections.abc import Mapping

from loco_otel.events import MILLI
from loco_otel.patching.dialects import model_tiers

_TOKENS = 1000
"""Tokens from which the weight grows."""
_REGION = re.compile(r"^(?:us|us-gov|eu|apac|jp|au|ca|global)\.")
_VERSION = re.compile(r"(?:-\d{4}-\d{2}-\d{2}|-\d{8}|-preview.*|-latest|-\d{3}|-v\d+(?::\d+)?)+$")


def compute_weight(table: Mapping[str, float], model: str | None, tokens: float = 0) -> float:
    """Return the weight of a call.

    Args:
        table: tiers by model.
        model: name from the request.
        tokens: of the prompt, as estimated.

    """
    return find_tier(table, model) * max(1.0, tokens / _TOKENS)


def find_tier(table: Mapping[str, float], model: str | None) -> float:
    """Return the weight of a short call of a model."""
    name = model or ""
    for known in (name, base := _REGION.sub("", name), _VERSION.sub("", base)):
        if known in table:
            return table[known]
    return model_tiers.estimate_weight(name, 0) / MILLI
